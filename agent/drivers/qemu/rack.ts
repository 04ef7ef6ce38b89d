/**
 * A rack of the lab: its network, machines and boot server, and the four drivers over them.
 *
 * Invariants:
 * 1. `close` leaves machines, their network and what they run as they are; `open` on the same directory takes them up again.
 * 2. `remove` ends every process and takes away every interface and namespace; what lies on the machines' disks stays in the directory.
 */
import { createHash } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import { attestationCapability } from '../boot/attestation-settings.ts';
import { type BootServer, startBootServer } from '../boot/boot-server.ts';
import { type Exporter, RackImages } from '../boot/images.ts';
import type { TrustedImage, TrustedSide } from '../boot/trusted-boot.ts';
import { vmmOf } from '../boot/vmm-hands.ts';
import type { Drivers, Fabric, Power, Serving } from '../port.ts';
import { BootedNode } from './booted.ts';
import { QemuMachine } from './machine.ts';
import { measuredArguments } from './measured.ts';
import { RackNetwork } from './network.ts';
import { defaultShape, type MachineShape, type MachineSpec } from './shape.ts';

/** Machines that QEMU plays connect by a socket of the file system. */
export interface LabExporter extends Exporter {
  readonly socketPath: string;
}

type Closable<Driver> = Driver & { close?(): Promise<void> | void };

export interface QemuRackOptions {
  readonly nodes: readonly string[];
  /** Disks, maps and logs of the machines. */
  readonly directory: string;
  /** For sockets, below which the rack makes a directory of its own; short, such as /tmp. */
  readonly runDirectory: string;
  readonly shape?: MachineShape;
  readonly exporter: LabExporter;
  readonly trustedImage: TrustedImage;
  /** Machines have a TPM, and boot the trusted image by UEFI; else they have plain firmware. */
  readonly hasTpms?: boolean;
  readonly trusted: (specs: readonly MachineSpec[], changed: (node: string) => void) => TrustedSide;
  readonly clock: Clock;
  readonly random: Random;
  readonly power: (
    machines: ReadonlyMap<string, QemuMachine>,
    changed: (node: string) => void,
  ) => Promise<Closable<Power>> | Closable<Power>;
  readonly fabric: (
    rack: { readonly netns: string; readonly specs: readonly MachineSpec[] },
    changed: (node: string) => void,
  ) => Promise<Closable<Fabric>> | Closable<Fabric>;
  readonly onError: (error: unknown) => void;
}

export interface QemuRack {
  readonly netns: string;
  readonly drivers: Drivers;
  readonly machines: ReadonlyMap<string, QemuMachine>;
  readonly booted: ReadonlyMap<string, BootedNode>;
  /** Ends the drivers; the machines go on. */
  close(): Promise<void>;
  /** `close`, and the end of everything that runs. */
  remove(): Promise<void>;
}

/** Names of a rack on this host: they follow from its directory, so that a new agent finds what an earlier one left running. */
export function namesOf(directory: string, runBase: string): { readonly netns: string; readonly runDirectory: string } {
  const name = `bvlab-${createHash('sha256').update(directory).digest('hex').slice(0, 8)}`;
  return { netns: name, runDirectory: join(runBase, name) };
}

function machineOf(
  spec: MachineSpec,
  { hasTpms, clock, random, onError }: QemuRackOptions,
  serving: () => Serving,
): QemuMachine {
  const moreArguments = (): Promise<string[]> => measuredArguments(spec, { isUefi: serving() === 'Trusted', clock });
  return new QemuMachine({ spec, clock, random, onError, ...(hasTpms === true ? { moreArguments } : {}) });
}

export async function openQemuRack(options: QemuRackOptions): Promise<QemuRack> {
  const { directory, clock, random, onError, exporter, trustedImage, shape = defaultShape } = options;
  const { netns, runDirectory } = namesOf(directory, options.runDirectory);
  const specs = options.nodes.map(
    (name, index): MachineSpec => ({
      name,
      index,
      shape,
      directory: join(directory, name),
      runDirectory: join(runDirectory, String(index)),
      netns,
    }),
  );
  const network = new RackNetwork({ netns, directory: join(directory, 'network'), machines: specs });
  await network.ensure();
  let listener: (node: string) => void = () => {};
  const changed = (node: string): void => listener(node);
  const images = new RackImages({
    nodes: new Map(specs.map((spec) => [spec.name, spec])),
    ...{ exporter, clock, random, changed, onError },
  });
  const machines = new Map(specs.map((spec) => [spec.name, machineOf(spec, options, () => images.serving(spec.name))]));
  const trusted = options.trusted(specs, changed);
  const booted = new Map(
    [...machines].map(([node, machine]) => [
      node,
      new BootedNode({
        ...{ machine, clock, trustedImage, trusted, onError },
        serving: () => images.serving(node),
        place: (digest) => {
          const name = images.exportName(node, digest);
          return name === undefined ? undefined : { socketPath: exporter.socketPath, name };
        },
        readImage: (offset, length) => images.readImage(node, offset, length),
        changed: () => changed(node),
      }),
    ]),
  );
  for (const machine of machines.values()) await machine.attach();
  for (const node of booted.values()) await node.attach();
  const fabric = await options.fabric({ netns, specs }, changed);
  const power = await options.power(machines, changed);
  const byIndex = new Map(specs.map(({ name, index }) => [index, booted.get(name)]));
  const listeners = [...(await network.listen())].map(([index, listener]) => ({
    listener,
    handlerOf: () => byIndex.get(index),
  }));
  const bootServer: BootServer = startBootServer(listeners, onError);
  const close = async (): Promise<void> => {
    listener = () => {};
    bootServer.close();
    images.shutdown();
    for (const node of booted.values()) node.close();
    for (const machine of machines.values()) machine.close();
    await Promise.all([fabric.close?.(), power.close?.()]);
  };
  return {
    ...{ netns, machines, booted, close },
    drivers: {
      ...{ power, fabric, images, vmm: vmmOf(booted) },
      capabilities: [
        ...['format:Raw', 'erase:Quick', 'erase:Full', 'qemu'],
        attestationCapability(options.hasTpms === true ? 'Tpm' : undefined),
      ],
      onChange(told) {
        listener = told;
      },
      close: () => void close(),
    },
    async remove() {
      // One that cannot be ended keeps nobody from taking away the rest.
      const ended = await Promise.allSettled([...machines.values()].map((machine) => machine.off()));
      for (const one of ended) if (one.status === 'rejected') onError(one.reason);
      await close();
      await network.remove();
      rmSync(runDirectory, { recursive: true, force: true });
    },
  };
}
