/**
 * What comes of the jobs that drivers ask of a simulated machine, once their time is over.
 *
 * Invariant: a change is Done only with its effect in place, and Error with nothing changed.
 */
import { digestHex, type Job, type JobKind, type SimMachine } from './machine.ts';
import type { SimulatedRack } from './rack.ts';

type AskedKind = Exclude<JobKind, 'stage'>;

export function finishJob(rack: SimulatedRack, machine: SimMachine, kind: AskedKind, job: Job): void {
  if (kind === 'shutdown') {
    rack.cutPower(machine);
    return;
  }
  const error = job.fails ? `simulated failure of ${kind} ${job.to}` : effect(rack, machine, kind, job);
  if (error === 'goes on') return;
  machine.changes[kind] =
    error === undefined ? { token: job.token, status: 'Done' } : { token: job.token, status: 'Error', error };
}

/** Makes it so; returns what is wrong, or "goes on" when a further job will end the change. */
function effect(
  rack: SimulatedRack,
  machine: SimMachine,
  kind: Exclude<AskedKind, 'shutdown'>,
  job: Job,
): string | undefined {
  switch (kind) {
    case 'power':
      if (job.to === 'On') rack.givePower(machine);
      else rack.cutPower(machine);
      return undefined;
    case 'order':
      machine.order = job.to === 'Disk' ? 'Disk' : 'Network';
      return undefined;
    case 'data':
    case 'control':
      movePorts(rack, machine, kind === 'data' ? 'Data' : 'Control', job);
      return undefined;
    case 'export':
      if (job.to !== 'Closed') openImage(rack, machine, job.to);
      machine.exported = job.to === 'Closed' ? 'Closed' : 'Open';
      return undefined;
    case 'serving':
      machine.serving = job.to === 'Vmm' || job.to === 'Trusted' ? job.to : 'Nothing';
      // A machine that found nothing to boot keeps asking.
      if (machine.stage === 'Stuck' && machine.failure === undefined && machine.order === 'Network')
        rack.reset(machine);
      return undefined;
    case 'vmm':
      return insideMachine(rack, machine, job);
  }
}

function movePorts(rack: SimulatedRack, machine: SimMachine, role: 'Data' | 'Control', job: Job): void {
  machine.ports = machine.ports.map((port) => {
    if (port.role !== role) return port;
    if (port.domain !== job.to) rack.record(machine, 'port', { port: port.name, from: port.domain, to: job.to });
    return { ...port, state: 'Ready', domain: job.to, ...(job.egress === undefined ? {} : { egress: job.egress }) };
  });
}

/** `to` is the image as JSON: any URL has the content that was published for it, unless it rotted. */
function openImage(rack: SimulatedRack, machine: SimMachine, to: string): void {
  const { url, sha256, sizeBytes } = JSON.parse(to) as { url: string; sha256: string; sizeBytes: number };
  const digest = rack.room.rottenImages.includes(url) ? digestHex(`rotten ${url}`) : sha256;
  machine.image = { url, digest, sizeBytes };
}

function insideMachine(rack: SimulatedRack, machine: SimMachine, job: Job): string | undefined {
  const [verb, argument = ''] = job.to.split(' ');
  if (verb === 'devirtualize') {
    if (machine.stage !== 'Guest') return 'no hypervisor with a running guest';
    machine.stage = 'BareMetal';
    rack.record(machine, 'devirtualized', { epoch: machine.running?.epoch ?? 0 });
    return undefined;
  }
  if (machine.stage !== 'Trusted') return 'the trusted image is not running';
  if (verb === 'attest') {
    machine.trusted = { nonce: argument, wiped: [], checked: false };
    rack.record(machine, 'attested', { nonce: argument });
    return undefined;
  }
  if (verb === 'check') {
    machine.trusted = { ...machine.trusted, checked: true };
    rack.record(machine, 'checked', {});
    return undefined;
  }
  return wipeNext(rack, machine, job, argument);
}

function wipeNext(rack: SimulatedRack, machine: SimMachine, job: Job, erase: string): string | undefined {
  const disk = machine.disks[machine.trusted.wiped.length];
  if (disk !== undefined) {
    disk.content = 'Blank';
    delete disk.map;
    machine.trusted = { ...machine.trusted, wiped: [...machine.trusted.wiped, disk.serial] };
    rack.record(machine, 'wiped', { disk: disk.name, serial: disk.serial, erase });
  }
  if (machine.trusted.wiped.length >= machine.disks.length) return undefined;
  rack.schedule(
    machine,
    'vmm',
    { token: job.token, to: job.to, fails: rack.chance(machine, 'wipe') },
    wipeMs(rack, machine, erase),
  );
  return 'goes on';
}

export function wipeMs(rack: SimulatedRack, machine: SimMachine, erase: string): number {
  const { durations, machine: shape } = rack.room;
  if (erase === 'Quick') return durations.wipeQuick;
  if (erase === 'Crypto') return durations.wipeCrypto;
  const disk = shape.disks[machine.trusted.wiped.length];
  return disk === undefined ? 0 : (disk.sizeBytes / disk.writeBytesPerSecond) * 1000;
}
