/**
 * What comes of the jobs that drivers ask of a simulated machine, once their time is over.
 *
 * Invariants:
 * 1. A change is Done only with its effect in place, and Error with nothing changed, except where a fault of the job says
 *    otherwise: those are the lies of hardware that its driver cannot see through.
 * 2. While nobody can read what became of a job, its change stays Pending.
 */
import {
  type Channel,
  digestHex,
  guestRuns,
  type Job,
  type JobKind,
  never,
  type SimMachine,
  vmmResident,
} from './machine.ts';
import { cutPower, givePower, reset } from './power.ts';
import type { SimulatedRack } from './rack.ts';
import { mayResetNow } from './tenant.ts';
import { type MoveCause, movePorts, truePorts } from './wiring.ts';

export function finishJob(rack: SimulatedRack, machine: SimMachine, kind: Exclude<JobKind, 'stage'>, job: Job): void {
  switch (kind) {
    case 'shutdown':
      cutPower(rack, machine);
      break;
    case 'flush':
      flushed(rack, machine);
      break;
    case 'tenant':
      if (guestRuns(machine)) reset(rack, machine);
      break;
    default:
      finishAsked(rack, machine, kind, job);
  }
}

function finishAsked(rack: SimulatedRack, machine: SimMachine, kind: Channel, job: Job): void {
  if (waitsForSomebody(rack, machine, kind, job)) return;
  if (job.fault === 'bmcGhost' || job.fault === 'fabricGhost') {
    leaveGhost(rack, machine, kind, job);
    end(machine, kind, job, `simulated: ${kind} ${job.to} was deleted`);
  } else if (job.fails) {
    end(machine, kind, job, `simulated failure of ${kind} ${job.to}`);
  } else {
    const error = job.ran === true ? undefined : effect(rack, machine, kind, job);
    if (error !== 'goes on') end(machine, kind, job, error);
  }
  mayResetNow(rack, machine);
}

function end(machine: SimMachine, kind: Channel, { token }: Job, error: string | undefined): void {
  machine.changes[kind] = error === undefined ? { token, status: 'Done' } : { token, status: 'Error', error };
}

/**
 * Puts a job off whose outcome nobody can read now. Whether it runs unseen now, or later, or never, is chance: a caller
 * that only hears nothing must be right with each.
 */
function waitsForSomebody(rack: SimulatedRack, machine: SimMachine, kind: Channel, job: Job): boolean {
  const untilMs = blockedUntil(rack, machine, kind);
  if (untilMs === undefined) return false;
  const dead = machine.faults.dies !== undefined || machine.faults.powerLoss !== undefined;
  const mayRun = job.ran !== true && !job.fails && !dead && kind !== 'export' && !job.to.startsWith('wipe');
  const fate = mayRun ? rack.draw() : 1;
  if (fate < 1 / 3) job.fails = true;
  else if (fate < 2 / 3) {
    job.ran = effect(rack, machine, kind, job) === undefined;
    job.fails = !job.ran;
  }
  job.dueMs = untilMs;
  machine.jobs[kind] = job;
  return true;
}

function blockedUntil(rack: SimulatedRack, machine: SimMachine, kind: Channel): number | undefined {
  const blocking = blockers[kind];
  let untilMs: number | undefined;
  for (const fault of blocking) {
    const active = machine.faults[fault] ?? rack.faults.inRack(fault);
    if (active !== undefined) untilMs = Math.max(untilMs ?? 0, active.untilMs ?? never);
  }
  return untilMs;
}

const ofBmc = ['bmcHang', 'bmcSilent', 'powerLoss', 'dies', 'takesBmc'] as const;
const blockers = {
  power: ofBmc,
  order: ofBmc,
  data: ['fabricStuck'],
  control: ['fabricStuck'],
  export: ['imagesDown'],
  serving: [],
  vmm: ['vmmSilent'],
} as const;

function leaveGhost(rack: SimulatedRack, machine: SimMachine, kind: Channel, { to, egress, fault }: Job): void {
  if (fault === undefined) return;
  const dueMs = rack.nowMs() + rack.faults.lasting(fault);
  machine.ghosts.push({ dueMs, kind, to, ...(egress === undefined ? {} : { egress }) });
}

export function runGhosts(rack: SimulatedRack, machine: SimMachine, nowMs: number): void {
  const due = machine.ghosts.filter(({ dueMs }) => dueMs <= nowMs);
  if (due.length === 0) return;
  machine.ghosts = machine.ghosts.filter(({ dueMs }) => dueMs > nowMs);
  for (const { kind, to, egress } of due) {
    rack.record(machine, 'ghost', { kind, to });
    const job: Job = { dueMs: nowMs, token: '', to, fails: false, ...(egress === undefined ? {} : { egress }) };
    effect(rack, machine, kind, job, 'late');
  }
}

/** Makes it so; returns what is wrong, or "goes on" when a further job will end the change. */
function effect(
  rack: SimulatedRack,
  machine: SimMachine,
  kind: Channel,
  job: Job,
  cause: MoveCause = 'asked',
): string | undefined {
  switch (kind) {
    case 'power':
      setPower(rack, machine, job);
      return undefined;
    case 'order':
      setOrder(rack, machine, job);
      return undefined;
    case 'data':
    case 'control':
      movePorts(rack, machine, {
        role: kind === 'data' ? 'Data' : 'Control',
        to: job.to,
        cause,
        ...(job.egress === undefined ? {} : { egress: job.egress }),
      });
      if (kind === 'control') asksAgain(rack, machine);
      return undefined;
    case 'export':
      setExport(rack, machine, job);
      return undefined;
    case 'serving':
      machine.serving = job.to === 'Vmm' || job.to === 'Trusted' ? job.to : 'Nothing';
      rack.record(machine, 'serving', { to: machine.serving });
      asksAgain(rack, machine);
      return undefined;
    case 'vmm':
      return insideMachine(rack, machine, job);
  }
}

function setPower(rack: SimulatedRack, machine: SimMachine, job: Job): void {
  if (job.fault === 'bmcLiesOff') {
    rack.faults.begin(machine, 'bmcLiesOff', rack.faults.lasting('bmcLiesOff'));
    return;
  }
  rack.faults.end(machine, 'bmcLiesOff');
  if (job.to === 'On') givePower(rack, machine);
  else cutPower(rack, machine);
}

function setOrder(rack: SimulatedRack, machine: SimMachine, job: Job): void {
  const to = job.to === 'Disk' ? 'Disk' : 'Network';
  const before = machine.order;
  delete machine.orderShown;
  if (job.fault === 'orderIgnored') machine.orderShown = to;
  else machine.order = to;
  if (job.fault === 'orderUnread') {
    machine.orderShown = before;
    rack.faults.begin(machine, 'orderUnread', rack.faults.lasting('orderUnread'));
  }
  rack.record(machine, 'order', { to: machine.order, shown: machine.orderShown ?? machine.order });
}

/** A machine that found nothing to boot keeps asking. */
function asksAgain(rack: SimulatedRack, machine: SimMachine): void {
  if (machine.stage === 'Stuck' && machine.failure === undefined && machine.order === 'Network') reset(rack, machine);
}

/** `to` is the image as JSON: any URL has the content that was published for it, unless it rotted. */
function setExport(rack: SimulatedRack, machine: SimMachine, { to }: Job): void {
  if (to === 'Closed') {
    if (machine.exported === 'Open') rack.record(machine, 'export', { to: 'Closed' });
    machine.exported = 'Closed';
    return;
  }
  const { url, sha256, sizeBytes } = JSON.parse(to) as { url: string; sha256: string; sizeBytes: number };
  const digest = rack.faults.isRotten(url) ? digestHex(`rotten ${url}`) : sha256;
  machine.image = { url, digest, sizeBytes };
  machine.exported = 'Open';
  rack.record(machine, 'export', { to: 'Open', url, digest, asked: sha256 });
}

/** The last block left the disk's write cache. */
function flushed(rack: SimulatedRack, machine: SimMachine): void {
  const disk = machine.disks.find(({ name }) => name === machine.running?.disk);
  const { map } = disk ?? {};
  if (disk === undefined || map === undefined || map.localBytes < map.totalBytes) return;
  map.flushed = true;
  rack.record(machine, 'installed', { disk: disk.name, epoch: map.epoch, bytes: map.localBytes });
}

function insideMachine(rack: SimulatedRack, machine: SimMachine, job: Job): string | undefined {
  const [verb, argument = ''] = job.to.split(' ');
  if (verb === 'devirtualize') {
    if (!vmmResident(machine)) return 'no hypervisor with a guest';
    leave(rack, machine);
    return undefined;
  }
  if (machine.stage !== 'Trusted') return 'the trusted image is not running';
  if (verb === 'attest') {
    machine.trusted = { ...machine.trusted, nonce: argument, wiped: [], checked: false, done: 0, missed: [] };
    rack.record(machine, 'attested', { nonce: argument, boot: machine.boots });
    return undefined;
  }
  if (verb === 'check') {
    if (machine.trusted.missed.length > 0) return `data was found on ${machine.trusted.missed.join(', ')}`;
    if (Object.keys(machine.cables).length > 0)
      return `a port is connected to another machine's: ${Object.keys(machine.cables)}`;
    machine.trusted = { ...machine.trusted, checked: true };
    rack.record(machine, 'checked', {});
    return undefined;
  }
  return wipeNext(rack, machine, job, argument);
}

/** The hypervisor takes itself out from under its guest; the event says how everything truly stood. */
function leave(rack: SimulatedRack, machine: SimMachine): void {
  rack.copies.settle(rack.nowMs());
  const disk = machine.disks.find(({ name }) => name === machine.running?.disk);
  const { map } = disk ?? {};
  machine.stage = 'BareMetal';
  delete machine.jobs.stage;
  rack.record(machine, 'devirtualized', {
    epoch: machine.running?.epoch ?? 0,
    totalBytes: map?.totalBytes ?? 0,
    localBytes: map?.localBytes ?? 0,
    flushed: map?.flushed ?? false,
    map: map?.state ?? 'None',
    // Reads of what is not local yet went to the image server.
    inFlight: map === undefined || map.localBytes >= map.totalBytes ? 0 : 1,
    exported: machine.exported,
    order: machine.order,
    orderShown: machine.orderShown ?? machine.order,
    serving: machine.serving,
    ports: truePorts(rack, machine),
  });
}

function wipeNext(rack: SimulatedRack, machine: SimMachine, job: Job, erase: string): string | undefined {
  const { trusted } = machine;
  const disk = machine.disks[trusted.done];
  if (disk !== undefined) {
    const missed = rack.faults.strikes(machine, 'wipeMisses');
    const told = !missed || rack.draw() < 0.5;
    if (!missed) wipe(rack, machine, disk.name, erase);
    machine.trusted = {
      ...trusted,
      done: trusted.done + 1,
      wiped: told ? [...trusted.wiped, disk.serial] : trusted.wiped,
      missed: missed && told ? [...trusted.missed, disk.serial] : trusted.missed,
    };
  }
  if (machine.trusted.done >= machine.disks.length) return undefined;
  const fails = rack.chance(machine, 'wipe');
  rack.schedule(machine, 'vmm', { token: job.token, to: job.to, fails }, wipeMs(rack, machine, erase));
  return 'goes on';
}

function wipe(rack: SimulatedRack, machine: SimMachine, name: string, erase: string): void {
  const disk = machine.disks.find((one) => one.name === name);
  if (disk === undefined) return;
  const of = disk.data ?? null;
  disk.content = 'Blank';
  disk.wipedAtMs = rack.nowMs();
  delete disk.map;
  delete disk.data;
  rack.record(machine, 'wiped', { disk: name, serial: disk.serial, erase, of });
}

export function wipeMs(rack: SimulatedRack, machine: SimMachine, erase: string): number {
  const { durations, machine: shape } = rack.room;
  if (erase === 'Quick') return durations.wipeQuick;
  if (erase === 'Crypto') return durations.wipeCrypto;
  const disk = shape.disks[machine.trusted.done];
  return disk === undefined ? 0 : (disk.sizeBytes / disk.writeBytesPerSecond) * 1000;
}
