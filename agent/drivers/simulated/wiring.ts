/**
 * Which switch port a machine's cable truly leads to, what that port truly is, and what the switch's driver reads of it.
 *
 * Invariants:
 * 1. An order moves the switch port that is recorded as the machine's; whoever's cable is in it goes with it, and the record
 *    of what happened names that machine.
 * 2. In quarantine, provisioning and a closed port a machine is alone, whatever else is in a domain of that name.
 * 3. A driver sees the hardware address of a machine that has power: a port with another's cable in it, or whose machine's
 *    address shows up elsewhere, reads Unknown from then on.
 */
import type { Port } from '../../../controller/api/protocol.generated.ts';
import type { Egress } from '../port.ts';
import { guestRuns, type SimMachine } from './machine.ts';
import type { SimulatedRack } from './rack.ts';

const alone: ReadonlySet<string> = new Set(['quarantine', 'provisioning', 'closed']);

/** The switch port at the other end of the machine's cable. */
function truePort(rack: SimulatedRack, machine: SimMachine, name: string): Port | undefined {
  const recorded = machine.cables[name];
  return (recorded === undefined ? machine : rack.machine(recorded)).ports.find((port) => port.name === name);
}

/** The machine whose cable is in the switch port recorded as this one's. */
function pluggedIn(rack: SimulatedRack, recorded: SimMachine, name: string): SimMachine {
  if (recorded.cables[name] === undefined) return recorded;
  return rack.machines().find(({ cables }) => cables[name] === recorded.name) ?? recorded;
}

/** The hypervisor and the boot server reach each other. */
export function controlReaches(machine: SimMachine): boolean {
  return machine.ports.every(
    (port) =>
      port.role !== 'Control' ||
      (port.state === 'Ready' && port.domain === 'provisioning' && machine.cables[port.name] === undefined),
  );
}

/** Why a port moved: it was asked for, a job ran late, the switch did it by itself, or a cable was moved. */
export type MoveCause = 'asked' | 'late' | 'defaults' | 'cable';

interface Move {
  readonly role: Port['role'];
  readonly to: string;
  readonly egress?: Egress;
  readonly cause: MoveCause;
}

export function movePorts(rack: SimulatedRack, recorded: SimMachine, { role, to, egress, cause }: Move): void {
  recorded.ports = recorded.ports.map((port) => {
    if (port.role !== role) return port;
    if (port.domain !== to) {
      const moved = pluggedIn(rack, recorded, port.name);
      rack.record(moved, 'port', { port: port.name, from: port.domain, to, cause, recordedAs: recorded.name });
    }
    return { ...port, state: 'Ready', domain: to, ...(egress === undefined ? {} : { egress }) };
  });
}

/** Exchanges the cables of one port of two machines; doing it again undoes it. */
export function swapCables(rack: SimulatedRack, one: SimMachine, other: SimMachine, name: string): void {
  const before = new Map([one, other].map((machine) => [machine, truePort(rack, machine, name)?.domain ?? '']));
  const ends = [one.cables[name] ?? one.name, other.cables[name] ?? other.name] as const;
  for (const [machine, end] of [
    [one, ends[1]],
    [other, ends[0]],
  ] as const) {
    if (end === machine.name) delete machine.cables[name];
    else machine.cables[name] = end;
  }
  for (const [machine, from] of before) {
    const to = truePort(rack, machine, name)?.domain ?? '';
    if (to !== from) rack.record(machine, 'port', { port: name, from, to, cause: 'cable', recordedAs: ends.join() });
    rack.changed(machine);
  }
}

export interface TruePort {
  readonly name: string;
  readonly role: Port['role'];
  readonly domain: string;
  readonly state: Port['state'];
  readonly egress?: Egress;
}

/** Where the machine's own cables lead. */
export function truePorts(rack: SimulatedRack, machine: SimMachine): TruePort[] {
  return machine.ports.map((recorded) => {
    const { name, role } = recorded;
    const { domain = 'closed', state = 'Unknown', egress } = truePort(rack, machine, name) ?? {};
    return { name, role, domain, state, ...(egress === undefined ? {} : { egress }) };
  });
}

/** Names of the machines of this rack with a running guest that one of these ports reaches. */
export function peersOf(rack: SimulatedRack, machine: SimMachine, ports: readonly TruePort[]): string[] {
  const domains = new Set(ports.filter(({ domain }) => !alone.has(domain)).map(({ domain }) => domain));
  if (domains.size === 0) return [];
  return rack
    .machines()
    .filter(
      (other) =>
        other !== machine && guestRuns(other) && truePorts(rack, other).some(({ domain }) => domains.has(domain)),
    )
    .map(({ name }) => name);
}

/** What the switch's driver reads of the ports recorded as this machine's. */
export function readPorts(rack: SimulatedRack, machine: SimMachine): readonly Port[] {
  const { fabricStale, portUnknown } = machine.faults;
  if (fabricStale !== undefined) return fabricStale.detail?.ports as readonly Port[];
  const hidden = portUnknown?.detail?.port;
  const swapped = Object.keys(machine.cables).length > 0;
  if (hidden === undefined && !swapped) return machine.ports;
  return machine.ports.map((port) => {
    const foreign =
      machine.cables[port.name] !== undefined &&
      (machine.power === 'On' || pluggedIn(rack, machine, port.name).power === 'On');
    return foreign || port.name === hidden ? { ...port, state: 'Unknown', domain: 'Unknown' } : port;
  });
}
