/**
 * The `Power` driver for machines whose BMCs speak Redfish.
 *
 * Invariants: those of the port, and
 * 1. What a machine is made of outlives the process (`FactsStore`): a BMC that is silent after a restart makes no other machine of it.
 * 2. Of a machine that was never read the facts say so by their UUID, which is no machine's, and its power is Unknown.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import type { BootOrder, MachineFacts, Power } from '../port.ts';
import type { NetworkTarget } from './boot.ts';
import { type ChangeTimes, defaultTimes } from './change.ts';
import { Gate } from './gate.ts';
import type { BmcTls } from './http.ts';
import type { NetworkInterface, RedfishFacts } from './inventory.ts';
import { defaultPolls, type PollTimes, RedfishNode } from './node.ts';
import { type Credentials, RedfishClient, readCredentials } from './session.ts';
import { RedfishSystem } from './system.ts';

export interface BmcEndpoint {
  /** https://host[:port] */
  readonly url: string;
  readonly tls?: BmcTls;
  /** A JSON file with `username` and `password`, read at each login; or a function, for tests and other stores. */
  readonly credentials: string | (() => Credentials);
  /** Id of the system, where the BMC has several. */
  readonly systemId?: string;
  /** What `Network` sets; Pxe when absent. */
  readonly network?: NetworkTarget;
  /** The order that the firmware follows by itself, where the BMC shows none; Unknown when absent. */
  readonly firmwareOrder?: BootOrder;
}

export interface FactsStore {
  load(): ReadonlyMap<string, RedfishFacts>;
  save(facts: ReadonlyMap<string, RedfishFacts>): void;
}

export interface RedfishPowerOptions {
  /** By node. */
  readonly bmcs: ReadonlyMap<string, BmcEndpoint>;
  readonly clock: Clock;
  readonly random: Random;
  readonly facts?: FactsStore;
  /** Called after a reading of the node changed. */
  readonly onChange?: (node: string) => void;
  /** Trouble with a BMC in words, without secrets; undefined when it is over. */
  readonly onTrouble?: (node: string, trouble: string | undefined) => void;
  /** BMCs that are asked at once; 8 when absent. */
  readonly concurrency?: number;
  /** Of one request; 15 s when absent. */
  readonly timeoutMs?: number;
  readonly polls?: Partial<PollTimes>;
  readonly times?: Partial<ChangeTimes>;
}

export interface RedfishPower extends Power {
  /** One listener, in place of `onChange` of the options. */
  listen(listener: (node: string) => void): void;
  /** The machine's network interfaces, as its BMC knows them: what a fabric's layout is written from. */
  interfaces(node: string): readonly NetworkInterface[];
  /** Ends its sessions. What was asked for and has not ended may still happen. */
  close(): Promise<void>;
}

/** Facts as JSON in one file, written whole or not at all. @throws Error when the file is there and cannot be read */
export function factsFile(path: string): FactsStore {
  return {
    load() {
      let text: string;
      try {
        text = readFileSync(path, 'utf8');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return new Map();
        throw error;
      }
      return new Map(Object.entries(JSON.parse(text) as Record<string, RedfishFacts>));
    },
    save(facts) {
      writeFileSync(`${path}.new`, JSON.stringify(Object.fromEntries(facts)));
      renameSync(`${path}.new`, path);
    },
  };
}

const neverRead = (node: string): MachineFacts => ({
  systemUuid: `never-read/${node}`.slice(0, 64),
  inventory: { architecture: 'x86_64', cores: 1, memoryBytes: 0, disks: [] },
});

function credentialsOf({ credentials }: BmcEndpoint): () => Credentials {
  return typeof credentials === 'string' ? () => readCredentials(credentials) : credentials;
}

export function redfishPower(options: RedfishPowerOptions): RedfishPower {
  const { bmcs, clock, random, facts: store, concurrency = 8, timeoutMs = 15_000 } = options;
  const gate = new Gate(concurrency);
  const known = new Map(store?.load());
  const placeholders = new Map([...bmcs.keys()].map((node) => [node, neverRead(node)]));
  const shown = new Map<string, { readonly of: RedfishFacts; readonly facts: MachineFacts }>();
  let listener = options.onChange ?? (() => {});
  const nodes = new Map(
    [...bmcs].map(([name, bmc]): [string, RedfishNode] => {
      const { url, tls, systemId, network = 'Pxe', firmwareOrder = 'Unknown' } = bmc;
      const client = new RedfishClient({
        url,
        timeoutMs,
        clock,
        credentials: credentialsOf(bmc),
        ...(tls === undefined ? {} : { tls }),
      });
      const node = new RedfishNode({
        system: new RedfishSystem(client, systemId),
        network,
        firmwareOrder,
        polls: { ...defaultPolls, ...options.polls },
        times: { ...defaultTimes, ...options.times },
        gate,
        clock,
        random,
        facts: known.get(name),
        onFacts(facts) {
          known.set(name, facts);
          store?.save(known);
        },
        onReading: () => listener(name),
        onTrouble: (trouble) => options.onTrouble?.(name, trouble),
      });
      return [name, node];
    }),
  );
  const nodeOf = (name: string): RedfishNode => {
    const node = nodes.get(name);
    if (node === undefined) throw new Error(`no BMC is given for ${name}`);
    return node;
  };
  return {
    machine(name) {
      const facts = nodeOf(name).facts;
      if (facts === undefined) return placeholders.get(name) ?? neverRead(name);
      const before = shown.get(name);
      if (before?.of === facts) return before.facts;
      const { systemUuid, inventory } = facts;
      const now: MachineFacts = { systemUuid, inventory };
      shown.set(name, { of: facts, facts: now });
      return now;
    },
    read: (name) => nodeOf(name).read(),
    set: (name, desired, token) =>
      nodeOf(name).ask('state', desired === 'Shutdown' ? { kind: 'Press' } : { kind: 'Power', desired }, token),
    setOrder: (name, order, token) => nodeOf(name).ask('order', { kind: 'Order', place: order }, token),
    refresh: (name) => nodeOf(name).refresh(),
    listen(next) {
      listener = next;
    },
    interfaces: (name) => nodeOf(name).facts?.interfaces ?? [],
    async close() {
      await Promise.all([...nodes.values()].map((node) => node.close()));
    },
  };
}
