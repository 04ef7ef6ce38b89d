/** The four drivers over a rack of simulated machines. */
import type {
  Change,
  Drivers,
  Fabric,
  FabricReading,
  ImageReading,
  Images,
  MachineFacts,
  Power,
  PowerReading,
  Vmm,
  VmmReading,
} from '../port.ts';
import { wipeMs } from './jobs.ts';
import { factsOf, type SimMachine, targetOf, vmmResident } from './machine.ts';
import type { FailingStep } from './options.ts';
import type { SimulatedRack } from './rack.ts';

type Channel = keyof SimMachine['changes'];

interface Ask {
  readonly channel: Channel;
  readonly to: string;
  readonly token: string;
  readonly durationMs: number;
  readonly step?: FailingStep;
  readonly egress?: 'None' | 'Shared' | 'Internet';
}

function ask(rack: SimulatedRack, name: string, { channel, to, token, durationMs, step, egress }: Ask): void {
  const machine = rack.machine(name);
  const pending: Change = { token, status: 'Pending' };
  machine.changes[channel] = pending;
  const fails = step !== undefined && rack.chance(machine, step);
  rack.schedule(machine, channel, { token, to, fails, ...(egress === undefined ? {} : { egress }) }, durationMs);
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

function simulatedPower(rack: SimulatedRack): Power {
  const { durations } = rack.room;
  const facts = new Map<string, MachineFacts>();
  return {
    machine(node) {
      const known = facts.get(node) ?? factsOf(rack.machine(node), rack.room.machine);
      facts.set(node, known);
      return known;
    },
    read(node): PowerReading {
      const { power, order, changes } = rack.machine(node);
      return {
        state: power,
        order,
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
      machine.changes.power = { token, status: 'Done' };
      const running = machine.stage === 'Guest' || machine.stage === 'BareMetal';
      if (running) rack.schedule(machine, 'shutdown', { token, to: 'Off', fails: false }, durations.shutdown);
      else rack.changed(machine);
    },
    setOrder(node, order, token) {
      ask(rack, node, { channel: 'order', to: order, token, durationMs: durations.bootOrder, step: 'bootOrder' });
    },
    refresh(node) {
      rack.changed(rack.machine(node));
    },
  };
}

function simulatedFabric(rack: SimulatedRack): Fabric {
  return {
    read(node): FabricReading {
      const { ports, changes } = rack.machine(node);
      const { data, control } = changes;
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
        exported,
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
    flushed: complete,
    inFlight: complete || machine.stage !== 'Guest' ? 0 : 1,
    map: map.state,
  };
}

function simulatedVmm(rack: SimulatedRack): Vmm {
  const { durations } = rack.room;
  const inside = (node: string, to: string, token: string, durationMs: number, step: FailingStep): void =>
    ask(rack, node, { channel: 'vmm', to, token, durationMs, step });
  return {
    read(node): VmmReading {
      const machine = rack.machine(node);
      const resident = vmmResident(machine);
      return {
        vmm: resident ? 'Resident' : 'Absent',
        epoch: resident ? (machine.running?.epoch ?? 0) : (machine.failedEpoch ?? 0),
        guest: guestOf(machine),
        copy: copyOf(machine),
        trusted: { up: machine.stage === 'Trusted', ...machine.trusted },
        ...(machine.failure === undefined ? {} : { failure: machine.failure }),
        ...(machine.changes.vmm === undefined ? {} : { change: machine.changes.vmm }),
      };
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
      rack.rerate(machine);
    },
    // A simulated tenant reads nothing.
    notify: () => {},
    devirtualize: (node, token) => inside(node, 'devirtualize', token, durations.devirtualize, 'devirtualize'),
    attest: (node, nonce, token) => inside(node, `attest ${nonce}`, token, durations.attest, 'attest'),
    wipe(node, erase, token) {
      const machine = rack.machine(node);
      machine.trusted = { ...machine.trusted, wiped: [] };
      inside(node, `wipe ${erase}`, token, wipeMs(rack, machine, erase), 'wipe');
    },
    check: (node, token) => inside(node, 'check', token, durations.check, 'check'),
    refresh: (node) => rack.changed(rack.machine(node)),
  };
}
