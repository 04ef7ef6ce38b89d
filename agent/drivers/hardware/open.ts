/**
 * Puts a rack of real machines together: BMCs by Redfish, ports by a plug-in or a bridge, the rack's image cache, boot server, trusted image and
 * VMM channel, and the four drivers over them.
 *
 * Invariants:
 * 1. What was begun is ended again when a later part cannot be opened; the machines go on in any case.
 * 2. Boot server, channel and images listen on the control segments alone.
 * 3. Secrets are read from files when they are needed: none is in the configuration, a log or a command line.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import { RackExporter } from '../../image/exporter.ts';
import { attestationCapability, openTpmAttestation } from '../boot/attestation-settings.ts';
import { type BootServer, startBootServer } from '../boot/boot-server.ts';
import { dnsmasqConfig } from '../boot/dnsmasq.ts';
import { RackImages } from '../boot/images.ts';
import { checkLoaders, loaderFile } from '../boot/loaders.ts';
import { TrustedBoots } from '../boot/trusted.ts';
import { type TrustedSide, trustedSide } from '../boot/trusted-boot.ts';
import { vmmOf } from '../boot/vmm-hands.ts';
import { bridgeFabric } from '../fabric/bridge.ts';
import { type PluginFabricOptions, pluginFabric } from '../fabric/plugin.ts';
import { commandPlugin, httpPlugin } from '../fabric/plugin-protocol.ts';
import type { Drivers, Fabric, Power } from '../port.ts';
import { type BmcEndpoint, factsFile, type RedfishPowerOptions, redfishPower } from '../redfish/power.ts';
import { VmmChannels } from '../vmm-channel/agent-side.ts';
import { answersAt } from './answers.ts';
import { departureTimes } from './departure.ts';
import { dhcpLayout } from './dhcp.ts';
import { HardwareNode } from './node.ts';
import type { NodeTimes } from './node-options.ts';
import {
  addressIn,
  bridgePorts,
  checkSettings,
  controlMac,
  type HardwareNodeSettings,
  type HardwareSettings,
  networkOf,
  withoutManagement,
} from './settings.ts';
import { aoeSource, type ImageSource, nbdSource } from './sources.ts';

export interface HardwareContext {
  /** Of this rack alone. */
  readonly directory: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly onError: (error: unknown) => void;
}

/** Times that tests shorten. */
export interface HardwareTuning {
  readonly times?: Partial<NodeTimes>;
  readonly power?: Pick<RedfishPowerOptions, 'polls' | 'times' | 'timeoutMs'>;
  readonly fabric?: Pick<PluginFabricOptions, 'pollMs' | 'pendingPollMs'>;
  readonly answers?: (address: string) => Promise<boolean>;
}

export interface OpenedHardware {
  readonly drivers: Drivers;
  /** The machines go on; those that read an image wait. */
  close(): Promise<void>;
}

type Closable<Part> = Part & { close(): Promise<void> };

const defaultTimes: NodeTimes = {
  ...departureTimes,
  ...{ prepareMs: 60_000, commitMs: 240_000, lookMs: 500, newsMs: 1_000 },
};
const pluginTimeoutMs = 15_000;
const mostConnections = 1024;

function endpointOf(bmc: HardwareNodeSettings['bmc'], defaults: HardwareSettings['bmc']): BmcEndpoint {
  const { url, serverName, fingerprint, systemId } = bmc;
  const ca = bmc.ca ?? defaults?.ca;
  const network = networkOf(bmc, defaults);
  const tls = {
    ...(ca === undefined ? {} : { caPem: readFileSync(ca, 'utf8') }),
    ...(serverName === undefined ? {} : { serverName }),
    ...(fingerprint === undefined ? {} : { fingerprint }),
  };
  return {
    ...{ url, tls, credentials: bmc.credentials ?? defaults?.credentials ?? '' },
    ...(systemId === undefined ? {} : { systemId }),
    ...(network === undefined ? {} : { network }),
  };
}

/** What the hands of all nodes work with. */
interface Parts {
  readonly power: Power;
  readonly fabric: Fabric;
  readonly images: RackImages;
  readonly source: ImageSource;
  readonly channels: VmmChannels;
  readonly trusted: TrustedSide;
  readonly changed: (node: string) => void;
}

/** Opens the parts in order, and closes what there is when one fails. */
class HardwareRack {
  readonly #nodes: readonly string[];
  readonly #settings: HardwareSettings;
  readonly #context: HardwareContext;
  readonly #tuning: HardwareTuning;
  readonly #closers: (() => Promise<void> | void)[] = [];
  #listener: (node: string) => void = () => {};

  constructor(nodes: readonly string[], settings: HardwareSettings, context: HardwareContext, tuning: HardwareTuning) {
    this.#nodes = nodes;
    this.#settings = settings;
    this.#context = context;
    this.#tuning = tuning;
  }

  #own(node: string): HardwareNodeSettings {
    const own = this.#settings.nodes[node];
    if (own === undefined) throw new Error(`hardware.nodes.${node} is missing`);
    return own;
  }

  #byNode<Value>(of: (own: HardwareNodeSettings, node: string, index: number) => Value): Map<string, Value> {
    return new Map(this.#nodes.map((node, index) => [node, of(this.#own(node), node, index)]));
  }

  async close(): Promise<void> {
    this.#listener = () => {};
    for (const close of this.#closers.splice(0).reverse()) await close();
  }

  #fabric(changed: (node: string) => void): Closable<Fabric> {
    const { command, http, bridge } = this.#settings.fabric;
    const { clock, random, onError } = this.#context;
    if (bridge !== undefined) {
      const { boot } = this.#settings;
      return bridgeFabric({
        ...{ ...bridge, clock, onChange: changed, onError, nodes: this.#byNode((own) => bridgePorts(own)) },
        ...(bridge.gateway === undefined ? {} : { gateway: withoutManagement(bridge.gateway, this.#settings) }),
        bootServer: {
          addresses: [],
          tcpPorts: [boot.port, boot.channelPort, this.#settings.images.port],
          udpPorts: [69],
        },
      });
    }
    const plugin =
      command === undefined
        ? httpPlugin({
            ...{ url: http?.url ?? '', timeoutMs: pluginTimeoutMs, clock },
            ...(http?.ca === undefined ? {} : { caPem: readFileSync(http.ca, 'utf8') }),
            ...(http?.tokenFile === undefined ? {} : { tokenFile: http.tokenFile }),
          })
        : commandPlugin({ command, timeoutMs: pluginTimeoutMs, clock });
    const fabric = pluginFabric({
      ...{ plugin, clock, random, onChange: changed, ...this.#tuning.fabric },
      nodes: this.#byNode(({ ports }) => ports.map(({ ifname: _ifname, ipv4: _ipv4, ...port }) => port)),
      onTrouble: (trouble) => {
        if (trouble !== undefined) onError(new Error(trouble));
      },
    });
    return {
      ...{ read: fabric.read.bind(fabric), set: fabric.set.bind(fabric), refresh: fabric.refresh.bind(fabric) },
      async close() {
        await fabric.close();
        await plugin.close();
      },
    };
  }

  async #source(): Promise<ImageSource> {
    const { images } = this.#settings;
    const { directory, clock, random, onError } = this.#context;
    const { directories = [], prefixes = [], ca, rateBytes, memoryBytes, diskBytes, port, transport, aoe } = images;
    const exporter = await RackExporter.start({
      directory: join(directory, 'cache'),
      // With AoE nobody reads over TCP.
      listen: transport === 'Aoe' ? { socketPath: join(directory, 'images.sock') } : { host: this.#agents(), port },
      addressOf: (node) => addressIn(this.#own(node).control.machine),
      ...{ memoryBytes, diskBytes, clock, random, onError },
      policy: { directories, prefixes },
      ...(ca === undefined ? {} : { http: { caPem: readFileSync(ca, 'utf8') } }),
      ...(rateBytes === undefined ? {} : { rateBytes }),
      onFault: (_digest, error) => onError(error),
    });
    if (transport !== 'Aoe' || aoe === undefined) return nbdSource(exporter, (node) => this.#own(node).control.agent);
    return aoeSource({
      ...{ ...aoe, exporter, directory: join(directory, 'aoe'), onError },
      nodes: this.#byNode((own, _node, slot) => ({
        slot,
        macs: own.ports.flatMap(({ role, address }) => (role === 'Control' && address !== undefined ? [address] : [])),
      })),
    });
  }

  /** Whose machine a connection to the agent is from; undefined: nobody's. */
  #nodeOf = ({ localAddress = '', remoteAddress = '' }: Socket): string | undefined => {
    const plain = (address: string): string => address.replace(/^::ffff:/, '');
    return this.#nodes.find((node) => {
      const { agent, machine } = this.#own(node).control;
      return agent === plain(localAddress) && addressIn(machine) === plain(remoteAddress);
    });
  };

  /** The agent's addresses on the control segments: nothing is served anywhere else. */
  #agents(): string[] {
    return [...new Set(this.#nodes.map((node) => this.#own(node).control.agent))];
  }

  /** A listener at each of them. */
  async #listen(port: number): Promise<Server[]> {
    return Promise.all(
      this.#agents().map(
        (host) =>
          new Promise<Server>((resolve, reject) => {
            const server = createServer();
            server.maxConnections = mostConnections;
            server.once('error', (error) => reject(new Error(`cannot listen on ${host}:${port}: ${error.message}`)));
            server.listen({ host, port }, () => resolve(server));
          }),
      ),
    );
  }

  #writeDhcp(): void {
    const { directory } = this.#context;
    if (this.#settings.boot.dnsmasq === undefined) return;
    const { firmware } = this.#settings.boot.dnsmasq;
    const bootByHttp = this.#nodes.some((node) => networkOf(this.#own(node).bmc, this.#settings.bmc) === 'UefiHttp');
    if (firmware !== undefined && bootByHttp) checkLoaders(firmware);
    const place = join(directory, 'dnsmasq');
    mkdirSync(place, { recursive: true });
    const config = dnsmasqConfig(dhcpLayout(this.#nodes, this.#settings, place));
    writeFileSync(join(directory, 'dnsmasq.conf'), config);
  }

  #power(changed: (node: string) => void): Closable<Power> {
    const { directory, clock, random, onError } = this.#context;
    return redfishPower({
      ...{ clock, random, ...this.#tuning.power, onChange: changed },
      bmcs: this.#byNode(({ bmc }) => endpointOf(bmc, this.#settings.bmc)),
      facts: factsFile(join(directory, 'bmc-facts.json')),
      onTrouble: (node, trouble) => {
        if (trouble !== undefined) onError(new Error(`BMC of ${node}: ${trouble}`));
      },
    });
  }

  async open(): Promise<Drivers> {
    const { directory, clock, random, onError } = this.#context;
    mkdirSync(directory, { recursive: true });
    this.#writeDhcp();
    const hands = new Map<string, HardwareNode>();
    const changed = (node: string): void => {
      hands.get(node)?.powerChanged();
      this.#listener(node);
    };
    const power = this.#power(changed);
    this.#closers.push(() => power.close());
    const fabric = this.#fabric(changed);
    this.#closers.push(() => fabric.close());
    const source = await this.#source();
    this.#closers.push(() => source.stop());
    const nodes = this.#byNode((_own, node) => ({ directory: join(directory, node) }));
    const images = new RackImages({ nodes, exporter: source, clock, random, changed, onError });
    this.#closers.push(() => images.shutdown());
    const channels = new VmmChannels({
      ...{ clock, random },
      onChange: (node) => hands.get(node)?.channelChanged(),
      mayPlan: (node) => hands.get(node)?.mayPlan() === true,
    });
    const { attestation, boot } = this.#settings;
    const trusted = trustedSide(new TrustedBoots({ clock, random, onChange: changed }), {
      baselines: this.#byNode(({ class: kind = '', disks }) => ({
        ...this.#settings.classes?.[kind],
        ...(disks === undefined ? {} : { disks }),
      })),
      ...(attestation === undefined ? {} : { tpm: openTpmAttestation(attestation, boot.trusted, this.#context) }),
    });
    const parts: Parts = { power, fabric, images, source, channels, trusted, changed: (node) => this.#listener(node) };
    for (const node of this.#nodes) {
      const hand = this.#hand(node, parts);
      hands.set(node, hand);
      this.#closers.push(() => hand.close());
    }
    await this.#serve(hands, channels);
    return {
      ...{ power, fabric, images, vmm: vmmOf(hands) },
      capabilities: [
        ...['format:Raw', 'erase:Quick', 'erase:Full', 'hardware'],
        attestationCapability(attestation?.method),
      ],
      onChange: (told) => {
        this.#listener = told;
      },
      close: () => void this.close(),
    };
  }

  #hand(node: string, { power, fabric, images, source, changed, ...parts }: Parts): HardwareNode {
    const { directory, clock, random, onError } = this.#context;
    const { boot } = this.#settings;
    const { answers = answersAt(clock), times } = this.#tuning;
    const { control, guestAddress, ...own } = this.#own(node);
    return new HardwareNode({
      ...{ ...parts, name: node, clock, random, onError, trustedImage: boot.trusted, vmmFiles: boot.vmm },
      ...{ path: join(directory, node, 'vmm.json'), times: { ...defaultTimes, ...times } },
      server: `http://${control.agent}:${boot.port}`,
      channel: { address: control.agent, port: boot.channelPort },
      control: { mac: controlMac({ control, ...own }), address: control.machine },
      ...(guestAddress === undefined ? {} : { guestAddress }),
      changed: () => changed(node),
      surroundings: {
        power: () => power.read(node),
        machine: () => power.machine(node),
        fabric: () => fabric.read(node),
        images: () => images.read(node),
        source(digest) {
          const name = images.exportName(node, digest);
          return name === undefined ? undefined : source.place(name, node);
        },
        readImage: (offset, length) => images.readImage(node, offset, length),
        answers: () => answers(addressIn(control.machine)),
      },
    });
  }

  async #serve(hands: ReadonlyMap<string, HardwareNode>, channels: VmmChannels): Promise<void> {
    const { boot } = this.#settings;
    const handlerOf = (socket: Socket): HardwareNode | undefined => hands.get(this.#nodeOf(socket) ?? '');
    const firmware = boot.dnsmasq?.firmware;
    const loaderOf = (socket: Socket, name: string): string | undefined =>
      firmware !== undefined && hands.get(this.#nodeOf(socket) ?? '')?.isReachable() === true
        ? loaderFile(firmware, name)
        : undefined;
    const listeners = (await this.#listen(boot.port)).map((listener) => ({ listener, handlerOf, loaderOf }));
    const server: BootServer = startBootServer(listeners, this.#context.onError);
    this.#closers.push(() => server.close());
    const sockets = new Set<Socket>();
    const forVmms = await this.#listen(boot.channelPort);
    for (const listener of forVmms) {
      listener.on('connection', (socket: Socket) => {
        const node = this.#nodeOf(socket);
        if (node === undefined) {
          socket.destroy();
          return;
        }
        sockets.add(socket);
        socket.once('close', () => sockets.delete(socket));
        channels.accept(socket, node);
      });
    }
    this.#closers.push(() => {
      for (const listener of forVmms) listener.close();
      for (const socket of sockets) socket.destroy();
    });
  }
}

/** @throws Error for people that names the field or the part that cannot be had */
export async function openHardware(
  nodes: readonly string[],
  settings: HardwareSettings,
  context: HardwareContext,
  tuning: HardwareTuning = {},
): Promise<OpenedHardware> {
  checkSettings(nodes, settings);
  const rack = new HardwareRack(nodes, settings, context, tuning);
  try {
    const drivers = await rack.open();
    return { drivers, close: () => rack.close() };
  } catch (error) {
    await rack.close();
    throw error;
  }
}
