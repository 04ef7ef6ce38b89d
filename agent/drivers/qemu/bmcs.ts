/**
 * A BMC for each machine of a rack, and the Power driver that speaks Redfish to them: as with real hardware, and nothing shorter.
 *
 * Invariant: the BMCs of a rack have one password, made with the rack and kept in a file of its own; it is in no log and on no command line.
 */
import { join } from 'node:path';
import { type Clock, sleep } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import { readJsonFile, writeJsonFile } from '../boot/files.ts';
import type { Power } from '../port.ts';
import type { PollTimes } from '../redfish/node.ts';
import { factsFile, redfishPower } from '../redfish/power.ts';
import type { Credentials } from '../redfish/session.ts';
import type { BmcHardware } from './bmc/machine.ts';
import { type RunningBmc, startBmc } from './bmc/server.ts';
import type { QemuMachine } from './machine.ts';
import { factsOf, type MachineSpec, macAddress, portName, roles } from './shape.ts';

export interface LabBmcs {
  readonly power: Power;
  /** By node: their misbehaviour can be switched while they run. */
  readonly bmcs: ReadonlyMap<string, RunningBmc>;
  close(): Promise<void>;
}

/** On one host an answer takes milliseconds, and a person watches. */
const polls: Partial<PollTimes> = { idleMs: 2_000, quickMs: 50, slowestMs: 500, failedMs: 1_000 };
/** A machine should be known before it is spoken of; a BMC that stays silent meanwhile is no reason not to start. */
const firstLookMs = 10_000;

export function hardwareOf(spec: MachineSpec): BmcHardware {
  const { systemUuid, inventory } = factsOf(spec);
  return {
    ...{ systemUuid, name: spec.name, architecture: inventory.architecture },
    ...{ cores: inventory.cores, memoryBytes: inventory.memoryBytes },
    disks: inventory.disks.map(({ serial = '', ...disk }) => ({ ...disk, serial })),
    interfaces: roles.map((role) => ({ name: portName(role), address: macAddress(spec.index, role) })),
  };
}

function credentialsIn(directory: string, random: Random): Credentials {
  const path = join(directory, 'bmc-credentials.json');
  const kept = readJsonFile<Credentials>(path);
  if (kept !== undefined) return kept;
  const made = { username: 'lab', password: random.uuid() };
  writeJsonFile(path, made);
  return made;
}

export async function startLabBmcs(
  machines: ReadonlyMap<string, QemuMachine>,
  options: {
    readonly directory: string;
    readonly clock: Clock;
    readonly random: Random;
    readonly changed: (node: string) => void;
    readonly onError: (error: unknown) => void;
  },
): Promise<LabBmcs> {
  const { directory, clock, random, changed, onError } = options;
  const credentials = credentialsIn(directory, random);
  const bmcs = new Map<string, RunningBmc>();
  const closeBmcs = async (): Promise<void> => {
    await Promise.all([...bmcs.values()].map((bmc) => bmc.close()));
  };
  try {
    for (const [node, machine] of machines) {
      bmcs.set(node, await startBmc({ machine, hardware: hardwareOf(machine.spec), credentials, clock, random }));
    }
  } catch (error) {
    await closeBmcs();
    throw error;
  }
  // For people who want to drive them with tools of their own.
  writeJsonFile(join(directory, 'bmcs.json'), Object.fromEntries([...bmcs].map(([node, { url }]) => [node, url])));
  const power = redfishPower({
    bmcs: new Map(
      [...bmcs].map(([node, { url }]) => [
        node,
        { url, credentials: () => credentials, firmwareOrder: 'Disk' as const },
      ]),
    ),
    ...{ clock, random, polls },
    facts: factsFile(join(directory, 'bmc-facts.json')),
    onChange: changed,
    onTrouble: (node, trouble) => {
      if (trouble !== undefined) onError(new Error(`BMC of ${node}: ${trouble}`));
    },
  });
  const until = clock.monotonic() + firstLookMs;
  const isKnown = (node: string): boolean => power.machine(node).inventory.disks.length > 0;
  while (![...bmcs.keys()].every(isKnown) && clock.monotonic() < until) await sleep(clock, 20);
  return {
    power,
    bmcs,
    async close() {
      await power.close();
      await closeBmcs();
    },
  };
}
