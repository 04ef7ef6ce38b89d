/**
 * What each fault does to the machine or the rack when it begins, and when it ends.
 *
 * Invariant: `onBegin` changes nothing where it says that the fault cannot happen.
 */
import type { ActiveFault, FaultKind } from './faults.ts';
import { type Channel, guestRuns, never, type SimMachine, targetOf, vmmResident } from './machine.ts';
import { simulatedFailure } from './options.ts';
import { crash, cutPower, givePower, loseBmcJobs, reset } from './power.ts';
import type { SimulatedRack } from './rack.ts';
import { askAs } from './tenant.ts';
import { movePorts, swapCables } from './wiring.ts';

type Detail = Readonly<Record<string, unknown>>;

interface How {
  /** The other machine, of faults between two. */
  readonly other: SimMachine | undefined;
  readonly untilMs: number | null;
}

type Begin = (rack: SimulatedRack, machine: SimMachine, how: How) => Detail | undefined;

const nothing: Detail = {};

/** What happens once, or is kept of how to end it; undefined: it cannot happen now. Kinds that only flag have no row. */
const begins: Partial<Record<FaultKind, Begin>> = {
  bmcSilent: (_, { faults }) => (faults.dies === undefined ? nothing : undefined),
  fabricStale: (_, { ports }) => ({ ports: structuredClone(ports) }),
  portUnknown(rack, { ports }) {
    const data = ports.filter(({ role }) => role === 'Data');
    return { port: data[Math.floor(rack.draw() * data.length)]?.name };
  },
  fabricDefaults(rack) {
    for (const machine of rack.machines()) {
      movePorts(rack, machine, { role: 'Data', to: 'default', cause: 'defaults' });
      rack.changed(machine);
    }
    return nothing;
  },
  cableSwap(rack, machine, { other }) {
    const port = machine.ports[Math.floor(rack.draw() * machine.ports.length)];
    if (other === undefined || port === undefined) return undefined;
    swapCables(rack, machine, other, port.name);
    return { one: machine.name, other: other.name, port: port.name };
  },
  powerLoss(rack, machine) {
    if (machine.faults.dies !== undefined) return undefined;
    const wasOn = machine.power === 'On';
    cutPower(rack, machine);
    loseBmcJobs(machine);
    return { wasOn };
  },
  rackDark(rack, _, { untilMs }) {
    const lastsMs = untilMs === null ? Number.POSITIVE_INFINITY : untilMs - rack.nowMs();
    for (const machine of rack.machines()) rack.faults.begin(machine, 'powerLoss', lastsMs);
    return nothing;
  },
  reset(rack, machine) {
    if (machine.power === 'Off') return undefined;
    reset(rack, machine);
    return nothing;
  },
  dies(rack, machine) {
    cutPower(rack, machine);
    return nothing;
  },
  vmmPanic(rack, machine) {
    if (!vmmResident(machine)) return undefined;
    crash(rack, machine);
    return nothing;
  },
  vmmSilent: (_, machine) => (machine.power === 'On' ? nothing : undefined),
  diskError(rack, machine) {
    const map = targetOf(machine)?.map;
    if (!vmmResident(machine) || map === undefined || map.localBytes >= map.totalBytes) return undefined;
    rack.copies.settle(rack.nowMs());
    machine.failure = simulatedFailure('DiskFailed', 'write error in the middle of the copy', false);
    return nothing;
  },
  diskSwap,
  imagesDown: (rack) => serveAt(rack, 0),
  imagesSlow: (rack) => (rack.faults.inRack('imagesDown') === undefined ? serveAt(rack, 0.02) : undefined),
  imageRot(rack, machine) {
    const url = machine.image?.url;
    if (url === undefined || rack.faults.isRotten(url)) return undefined;
    rack.faults.setRotten(url, true);
    return { url };
  },
  twin(rack, machine, { other }) {
    if (other === undefined) return undefined;
    const before = identityOf(machine);
    becomes(rack, machine, identityOf(other));
    return { node: machine.name, ...before };
  },
  takesBmc: (_, machine) => (guestRuns(machine) ? nothing : undefined),
  setsOrder(rack, machine) {
    if (!guestRuns(machine)) return undefined;
    machine.order = machine.order === 'Disk' ? 'Network' : 'Disk';
    delete machine.orderShown;
    rack.record(machine, 'order', { to: machine.order, shown: machine.order, by: 'tenant' });
    return nothing;
  },
  spoofs(rack, machine, { other }) {
    if (!guestRuns(machine) || other === undefined) return undefined;
    askAs(rack, machine, other);
    return nothing;
  },
  forges: (_, machine) => (guestRuns(machine) ? nothing : undefined),
};

/** @returns what to keep of it, or undefined where it cannot happen to the machine as it is */
export function onBegin(rack: SimulatedRack, machine: SimMachine, kind: FaultKind, how: How): Detail | undefined {
  const begin = begins[kind];
  return begin === undefined ? nothing : begin(rack, machine, how);
}

/** A disk of another machine, with what its guest left on it. It is done with the power off. */
function diskSwap(rack: SimulatedRack, machine: SimMachine): Detail | undefined {
  const disk = machine.disks[Math.floor(rack.draw() * machine.disks.length)];
  if (disk === undefined || machine.faults.dies !== undefined) return undefined;
  const wasOn = machine.power === 'On';
  cutPower(rack, machine);
  disk.serial = `SWAP-${Math.floor(rack.draw() * 1e9)}`;
  disk.content = 'Unknown';
  disk.data = { domain: 'elsewhere', epoch: 0, written: true, atMs: rack.nowMs() };
  delete disk.map;
  delete disk.wipedAtMs;
  rack.record(machine, 'diskSwapped', { disk: disk.name, serial: disk.serial });
  rack.factsChanged(machine);
  if (wasOn) givePower(rack, machine);
  return nothing;
}

function serveAt(rack: SimulatedRack, factor: number): Detail {
  rack.copies.serverFactor = factor;
  for (const machine of rack.machines()) rack.changed(machine);
  rack.rerate();
  return nothing;
}

interface Identity {
  readonly systemUuid: string;
  readonly serials: readonly string[];
}

const identityOf = ({ systemUuid, disks }: SimMachine): Identity => ({
  systemUuid,
  serials: disks.map(({ serial }) => serial),
});

function becomes(rack: SimulatedRack, machine: SimMachine, { systemUuid, serials }: Identity): void {
  machine.systemUuid = systemUuid;
  for (const [index, disk] of machine.disks.entries()) disk.serial = serials[index] ?? disk.serial;
  rack.factsChanged(machine);
}

/** @param machine undefined: it was one of the whole rack */
export function onEnd(
  rack: SimulatedRack,
  kind: FaultKind,
  { detail }: ActiveFault,
  machine: SimMachine | undefined,
): void {
  switch (kind) {
    case 'bmcHang':
    case 'bmcSilent':
    case 'takesBmc':
      if (machine !== undefined) wakeJobs(rack, machine, ['power', 'order']);
      break;
    case 'powerLoss':
    case 'dies':
      if (machine !== undefined) powerReturns(rack, machine, kind, detail?.wasOn === true);
      break;
    case 'orderUnread':
      if (machine !== undefined) delete machine.orderShown;
      break;
    case 'fabricStuck':
      if (machine !== undefined) wakeJobs(rack, machine, ['data', 'control']);
      break;
    case 'vmmSilent':
      if (machine !== undefined) wakeJobs(rack, machine, ['vmm']);
      break;
    case 'cableSwap': {
      const { one, other, port } = (detail ?? {}) as { one: string; other: string; port: string };
      swapCables(rack, rack.machine(one), rack.machine(other), port);
      break;
    }
    case 'imagesDown':
      serveAt(rack, 1);
      for (const each of rack.machines()) wakeJobs(rack, each, ['export']);
      break;
    case 'imagesSlow':
      if (rack.faults.inRack('imagesDown') === undefined) serveAt(rack, 1);
      break;
    case 'imageRot':
      rack.faults.setRotten(String(detail?.url), false);
      break;
    case 'twin':
      becomes(rack, rack.machine(String(detail?.node)), detail as unknown as Identity);
      break;
    default:
      break;
  }
}

function wakeJobs(rack: SimulatedRack, { jobs }: SimMachine, kinds: readonly Channel[]): void {
  for (const kind of kinds) {
    const job = jobs[kind];
    // A job in its ordinary time is let run.
    if (job !== undefined && (job.dueMs === never || job.ran === true || job.fails)) job.dueMs = rack.nowMs();
  }
}

/** Firmware comes back as it is set: mostly as it was, or always off, or always on. */
function powerReturns(rack: SimulatedRack, machine: SimMachine, kind: 'powerLoss' | 'dies', wasOn: boolean): void {
  loseBmcJobs(machine);
  wakeJobs(rack, machine, ['power', 'order']);
  if (kind === 'dies') return;
  const policy = rack.draw();
  if (policy < 0.6 ? wasOn : policy < 0.8) givePower(rack, machine);
}
