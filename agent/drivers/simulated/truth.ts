/** A snapshot of what is true of a simulated machine, for judges and tests; never for an agent. */
import type { Serving } from '../port.ts';
import type { FaultKind } from './faults.ts';
import { guestRuns, type SimDisk, type SimMachine, type Stage, vmmResident } from './machine.ts';
import type { SimulatedRack } from './rack.ts';
import { peersOf, type TruePort, truePorts } from './wiring.ts';

export interface Truth {
  readonly node: string;
  readonly power: 'On' | 'Off';
  readonly stage: Stage;
  readonly guest: 'None' | 'ThroughVmm' | 'BareMetal';
  /** Of the plan that the guest was started under; 0: no guest, or one of nobody that this room knows. */
  readonly epoch: number;
  /** What its firmware does at the next boot. */
  readonly order: 'Network' | 'Disk';
  readonly serving: Serving;
  readonly exported: 'Open' | 'Closed';
  /** At the far ends of its own cables. */
  readonly ports: readonly TruePort[];
  /** Machines of the rack whose guests its guest reaches. */
  readonly peers: readonly string[];
  readonly disks: readonly SimDisk[];
  /** A disk holds data of somebody. */
  readonly dirty: boolean;
  /** Bytes of images that its VMM read. */
  readonly readBytes: number;
  /** Jobs that may still do something, of whatever kind. */
  readonly pending: number;
  readonly faults: readonly FaultKind[];
}

export function truthOf(rack: SimulatedRack, machine: SimMachine): Truth {
  const { name, power, stage, order, serving, exported, disks, readBytes, jobs, ghosts, faults } = machine;
  const ports = truePorts(rack, machine);
  const runs = guestRuns(machine);
  const resident = vmmResident(machine);
  const visible = resident ? ports.filter(({ role }) => role === 'Data') : ports;
  return {
    node: name,
    power,
    stage,
    guest: resident ? 'ThroughVmm' : runs ? 'BareMetal' : 'None',
    epoch: runs ? (machine.running?.epoch ?? disks.find(({ content }) => content === 'Image')?.map?.epoch ?? 0) : 0,
    order,
    serving,
    exported,
    ports,
    peers: runs ? peersOf(rack, machine, visible) : [],
    disks: structuredClone(disks),
    dirty: disks.some(({ data }) => data !== undefined),
    readBytes,
    pending: Object.keys(jobs).length + ghosts.length,
    faults: Object.keys(faults) as FaultKind[],
  };
}
