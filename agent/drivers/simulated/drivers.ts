/**
 * The four drivers over a rack of simulated machines: they ask, and they read.
 *
 * Invariant: a reading differs from the truth only by a fault in force, as its row in `faults.ts` says.
 */
import type {
  Change,
  Drivers,
  Fabric,
  FabricReading,
  ImageReading,
  Images,
  Power,
  PowerReading,
  Vmm,
  VmmReading,
} from '../port.ts';
import type { FaultKind } from './faults.ts';
import { wipeMs } from './jobs.ts';
import { type Channel, type SimMachine, targetOf, vmmResident } from './machine.ts';
import type { FailingStep } from './options.ts';
import type { SimulatedRack } from './rack.ts';
import { forgedReading, mayResetNow } from './tenant.ts';
import { controlReaches, readPorts } from './wiring.ts';

interface Ask {
  readonly channel: Channel;
  readonly to: string;
  readonly token: string;
  readonly durationMs: number;
  readonly step?: FailingStep;
  readonly egress?: 'None' | 'Shared' | 'Internet';
}

/** Faults of the job itself, in the order in which they are drawn; the first that strikes is it. */
const jobFaults: Partial<Record<Channel, readonly FaultKind[]>> = {
  power: ['bmcHang', 'bmcSlow', 'bmcLate', 'bmcGhost', 'bmcLiesOff'],
  order: ['bmcHang', 'bmcSlow', 'bmcLate', 'bmcGhost', 'orderIgnored', 'orderUnread'],
  data: ['fabricLate', 'fabricStuck', 'fabricGhost'],
  control: ['fabricLate', 'fabricStuck', 'fabricGhost'],
};

function ask(rack: SimulatedRack, name: string, { channel, to, token, durationMs, step, egress }: Ask): void {
  const machine = rack.machine(name);
  const { takesBmc } = machine.faults;
  if (takesBmc !== undefined && (channel === 'power' || channel === 'order')) {
    machine.changes[channel] = { token, status: 'Error', error: 'the BMC refuses the credentials' };
    rack.changed(machine);
    return;
  }
  const pending: Change = { token, status: 'Pending' };
  machine.changes[channel] = pending;
  const fails = step !== undefined && rack.chance(machine, step);
  const fault = jobFaults[channel]?.find(
    (kind) => (kind !== 'bmcLiesOff' || to === 'Off') && rack.faults.strikes(machine, kind),
  );
  const tookMs = fault === undefined ? durationMs : durationWith(rack, machine, fault, durationMs);
  if (channel === 'data') rack.faults.end(machine, 'fabricStale');
  const parts = { ...(egress === undefined ? {} : { egress }), ...(fault === undefined ? {} : { fault }) };
  rack.schedule(machine, channel, { token, to, fails, ...parts }, tookMs);
}

/** A fault that is on the machine, and not only on its job, begins here. */
function durationWith(rack: SimulatedRack, machine: SimMachine, fault: FaultKind, durationMs: number): number {
  switch (fault) {
    case 'bmcSlow':
      return durationMs * 20;
    case 'bmcLate':
    case 'fabricLate':
      return rack.faults.lasting(fault);
    case 'bmcHang':
    case 'fabricStuck':
      rack.faults.begin(machine, fault, rack.faults.lasting(fault));
      return durationMs;
    default:
      return durationMs;
  }
}

export function simulatedDrivers(rack: SimulatedRack): Drivers {
  return {
    power: simulatedPower(rack),
    fabric: simulatedFabric(rack),
    images: simulatedImages(rack),
    vmm: simulatedVmm(rack),
    capabilities: ['format:Raw', 'format:Qcow2', 'erase:Quick', 'erase:Crypto', 'erase:Full', 'simulated'],
    onChange: (listener) => rack.onChange(listener),
    close: () => rack.close(),
  };
}

/** Nobody can read the BMC. */
function bmcAway({ faults }: SimMachine): boolean {
  const { bmcHang, bmcSilent, powerLoss, dies, takesBmc } = faults;
  return [bmcHang, bmcSilent, powerLoss, dies, takesBmc].some((fault) => fault !== undefined);
}

function simulatedPower(rack: SimulatedRack): Power {
  const { durations } = rack.room;
  return {
    machine: (node) => rack.facts(rack.machine(node)),
    read(node): PowerReading {
      const machine = rack.machine(node);
      const { power, order, orderShown, changes, faults } = machine;
      const away = bmcAway(machine);
      const state = faults.bmcLiesOff === undefined ? power : 'Off';
      return {
        state: away ? 'Unknown' : state,
        order: away ? 'Unknown' : (orderShown ?? order),
        ...(changes.power === undefined ? {} : { stateChange: changes.power }),
        ...(changes.order === undefined ? {} : { orderChange: changes.order }),
      };
    },
    set(node, desired, token) {
      if (desired !== 'Shutdown') {
        ask(rack, node, { channel: 'power', to: desired, token, durationMs: durations.power, step: 'power' });
        return;
      }
      const machine = rack.machine(node);
      const away = bmcAway(machine);
      machine.changes.power = away
        ? { token, status: 'Error', error: 'the BMC does not answer' }
        : { token, status: 'Done' };
      const running = machine.stage === 'Guest' || machine.stage === 'BareMetal';
      const heeds = !away && running && !rack.faults.strikes(machine, 'ignoresAcpi');
      if (heeds) rack.schedule(machine, 'shutdown', { token, to: 'Off', fails: false }, durations.shutdown);
      mayResetNow(rack, machine);
      rack.changed(machine);
    },
    setOrder(node, order, token) {
      ask(rack, node, { channel: 'order', to: order, token, durationMs: durations.bootOrder, step: 'bootOrder' });
    },
    refresh(node) {
      const machine = rack.machine(node);
      // Asked again, a BMC that lies is found out, or not.
      if (machine.faults.bmcLiesOff !== undefined && rack.draw() < 0.5) rack.faults.end(machine, 'bmcLiesOff');
      rack.changed(machine);
    },
  };
}

function simulatedFabric(rack: SimulatedRack): Fabric {
  return {
    read(node): FabricReading {
      const machine = rack.machine(node);
      const ports = readPorts(rack, machine);
      const { data, control } = machine.changes;
      const unsettled = (change: Change | undefined): boolean => change !== undefined && change.status !== 'Done';
      const shown = ports.map((port) => {
        const change = port.role === 'Data' ? data : control;
        return change === undefined || change.status === 'Done' ? port : { ...port, state: change.status };
      });
      return {
        ports: unsettled(data) || unsettled(control) ? shown : ports,
        ...(data === undefined ? {} : { dataChange: data }),
        ...(control === undefined ? {} : { controlChange: control }),
      };
    },
    set(node, role, domain, egress, token) {
      ask(rack, node, {
        channel: role === 'Data' ? 'data' : 'control',
        to: domain,
        token,
        durationMs: rack.room.durations.fabric,
        step: 'fabric',
        ...(egress === undefined ? {} : { egress }),
      });
    },
    refresh(node) {
      rack.faults.end(rack.machine(node), 'fabricStale');
      rack.changed(rack.machine(node));
    },
  };
}

function simulatedImages(rack: SimulatedRack): Images {
  const { durations } = rack.room;
  return {
    read(node): ImageReading {
      const { exported, serving, image, changes } = rack.machine(node);
      return {
        exported: rack.faults.inRack('imagesDown') === undefined ? exported : 'Unknown',
        serving,
        ...(image === undefined ? {} : { digest: image.digest, sizeBytes: image.sizeBytes }),
        ...(changes.export === undefined ? {} : { exportChange: changes.export }),
        ...(changes.serving === undefined ? {} : { servingChange: changes.serving }),
      };
    },
    open(node, { url, sha256, sizeBytes }, token) {
      const to = JSON.stringify({ url, sha256, sizeBytes });
      ask(rack, node, { channel: 'export', to, token, durationMs: durations.imageOpen, step: 'imageOpen' });
    },
    close(node, token) {
      ask(rack, node, { channel: 'export', to: 'Closed', token, durationMs: durations.serve });
    },
    serve(node, what, token) {
      ask(rack, node, { channel: 'serving', to: what, token, durationMs: durations.serve });
    },
    servedBytes: () => rack.copies.servedBytes,
  };
}

function guestOf(machine: SimMachine): VmmReading['guest'] {
  const { stage, running, starts, name } = machine;
  const ofPlan = running !== undefined && starts.epoch === running.epoch;
  const count = ofPlan ? starts.count : 0;
  if (stage === 'Guest') {
    return {
      state: 'Running',
      starts: count,
      address: `${name}.sim`,
      hostKey: `ssh-ed25519 SIM${machine.systemUuid} ${name}`,
    };
  }
  if (stage === 'BareMetal') return { state: 'Unknown', starts: count };
  return { state: 'Off', starts: count };
}

function copyOf(machine: SimMachine): VmmReading['copy'] {
  const map = targetOf(machine)?.map;
  if (machine.failure?.code === 'MapInvalid') {
    return { totalBytes: 0, localBytes: 0, flushed: false, inFlight: 0, map: 'Invalid' };
  }
  if (map === undefined) return { totalBytes: 0, localBytes: 0, flushed: false, inFlight: 0, map: 'None' };
  const complete = map.localBytes >= map.totalBytes;
  return {
    totalBytes: map.totalBytes,
    localBytes: map.localBytes,
    flushed: complete && map.flushed,
    inFlight: complete || machine.stage !== 'Guest' ? 0 : 1,
    map: map.state,
  };
}

/** Nobody answers on the channel: whether a hypervisor is there is not known. */
const silent = ({ begunEpoch, changes: { vmm: change } }: SimMachine): VmmReading => ({
  vmm: 'Unknown',
  epoch: 0,
  ...(begunEpoch === undefined ? {} : { begunEpoch }),
  guest: { state: 'Unknown', starts: 0 },
  copy: { totalBytes: 0, localBytes: 0, flushed: false, inFlight: 0, map: 'None' },
  trusted: { up: false, nonce: '', wiped: [], checked: false },
  ...(change === undefined ? {} : { change }),
});

/** The machines have no TPM: a boot is known by its key. */
const attestationOf = (nonce: string): Pick<VmmReading['trusted'], 'attestation'> =>
  nonce === '' ? {} : { attestation: { method: 'Token' } };

function simulatedVmm(rack: SimulatedRack): Vmm {
  const { durations } = rack.room;
  const inside = (node: string, to: string, token: string, durationMs: number, step: FailingStep): void =>
    ask(rack, node, { channel: 'vmm', to, token, durationMs, step });
  return {
    read(node): VmmReading {
      const machine = rack.machine(node);
      const change = machine.changes.vmm;
      const resident = vmmResident(machine);
      if (machine.faults.vmmSilent !== undefined || (resident && !controlReaches(machine))) return silent(machine);
      const { nonce, wiped, checked } = machine.trusted;
      const truly: VmmReading = {
        vmm: resident ? 'Resident' : 'Absent',
        epoch: resident ? (machine.running?.epoch ?? 0) : (machine.failedEpoch ?? 0),
        ...(machine.begunEpoch === undefined ? {} : { begunEpoch: machine.begunEpoch }),
        guest: guestOf(machine),
        copy: copyOf(machine),
        trusted: { up: machine.stage === 'Trusted', nonce, ...attestationOf(nonce), wiped, checked },
        ...(machine.failure === undefined ? {} : { failure: machine.failure }),
        ...(change === undefined ? {} : { change }),
      };
      return forgedReading(rack, machine, truly);
    },
    plan(node, plan) {
      const machine = rack.machine(node);
      if (plan === undefined) delete machine.plan;
      else machine.plan = plan;
      rack.changed(machine);
    },
    throttle(node, maxRateBytes) {
      const machine = rack.machine(node);
      machine.maxRateBytes = maxRateBytes;
      rack.rerate();
      rack.changed(machine);
    },
    // A simulated tenant reads nothing.
    notify: () => {},
    devirtualize: (node, token) => inside(node, 'devirtualize', token, durations.devirtualize, 'devirtualize'),
    attest: (node, nonce, token) => inside(node, `attest ${nonce}`, token, durations.attest, 'attest'),
    wipe(node, erase, token) {
      const machine = rack.machine(node);
      machine.trusted = { ...machine.trusted, wiped: [], checked: false, done: 0, missed: [] };
      inside(node, `wipe ${erase}`, token, wipeMs(rack, machine, erase), 'wipe');
    },
    check: (node, token) => inside(node, 'check', token, durations.check, 'check'),
    refresh: (node) => rack.changed(rack.machine(node)),
  };
}
