/**
 * The operations of a tenancy: isolate, reimage, devirtualize.
 *
 * Invariants:
 * 1. The boot server is told to answer with the VMM in the decision that sets `guestStarted` and drops the certificate, or in
 *    a later one: from then on a machine that comes on by itself runs a guest. Power On comes after it, and only while every
 *    data port is read back in the domain of the isolation.
 * 2. The image is exported only under the digest that was asked for; another digest is never served.
 * 3. A port that left its domain is closed without anybody's instruction; only an instruction puts it back.
 * 4. The commit is asked for in the decision that sets `commitSent`; whatever becomes of it, the control port is closed.
 */
import type { Devirtualize, Disk, Environment, Port, Reimage } from '../controller/api/protocol.generated.ts';
import type { Readings, VmmPlan } from './drivers/port.ts';
import {
  type Context,
  controlPortsAre,
  dataPortsAre,
  exportClosed,
  failed,
  limits,
  met,
  need,
  type Outcome,
  orderIs,
  powerIs,
  sequence,
  servingIs,
  startedBy,
  together,
  vmmChange,
  waitFor,
} from './needs.ts';
import { type Isolation, isAsking, isolated, isPrepared, notWiped, type Row, type RowOperation } from './row.ts';

export function isolateStep(ctx: Context, isolation: Isolation): Outcome {
  const { commitSent, guestStarted } = ctx.row;
  const { power, vmm } = ctx.readings;
  // A guest without a hypervisor would see provisioning, also one that a log which went back in time knows nothing of; a reimage opens the
  // port once the machine is off.
  const isEmpty = !guestStarted && power.state !== 'On';
  const mayOpen = !commitSent && (isEmpty || vmm.vmm === 'Resident');
  return together(
    () => dataPortsAre(ctx, isolation.domain, isolation.egress, `${isolation.operationId}/data`),
    () => (mayOpen ? controlPortsAre(ctx, 'provisioning', `${isolation.operationId}/control`) : met),
  );
}

/** Between two attempts to move a control port that would not move, or that strayed. */
const controlAgainMs = 60_000;

/** The control port while no operation needs it: asked for again for as long as it is elsewhere. */
export function keepControlPort(ctx: Context): void {
  const { row, readings } = ctx;
  const { ports, controlChange } = readings.fabric;
  const domain = controlDomain(row, readings);
  if (domain === undefined || controlChange?.status === 'Pending') return;
  const isThere = ports.every(
    ({ role, state, domain: now }) => role !== 'Control' || (state === 'Ready' && now === domain),
  );
  if (isThere) return;
  const token = `${row.node}.${row.epoch}/keep/${domain}`;
  if (controlChange?.token === token && !ctx.expired.has(token)) waitFor(ctx, token, controlAgainMs, () => met);
  else ctx.acts.push({ kind: 'fabric', role: 'Control', domain, token });
}

/**
 * Where the control port belongs; undefined: where it is. After a commit the guest may see it, whatever became of the hypervisor. A machine
 * that came up without its hypervisor must not find provisioning there either: its order reads the disk, or the boot server has nothing
 * for it; and one that is off and is to boot from the network must. In a reclaim only the trusted image has it, and who boots it.
 * A log that was lost, or that nobody wrote yet, says nothing of whose disk it is that a machine comes up from.
 */
function controlDomain(row: Row, { power, images, vmm }: Readings): 'closed' | 'provisioning' | undefined {
  const isTenancy = row.kind === 'Tenancy';
  const idle = !isAsking(row);
  // While nobody says whether the hypervisor left, the port must be able to speak: that it does not is how it is known.
  const isOver = row.operation?.status !== 'Running' || (idle && vmm.vmm === 'Absent');
  if (isTenancy && row.commitSent && isOver) return 'closed';
  const mayRun = row.guestStarted || row.kind === 'None';
  if (!mayRun || vmm.vmm !== 'Absent' || vmm.trusted.up) return undefined;
  const nothingServed = images.serving === 'Nothing' && images.servingChange?.status !== 'Pending';
  const isBare = power.order === 'Disk' || (idle && (nothingServed || row.kind === 'Reclaim'));
  if (power.state === 'On' && isBare) return 'closed';
  const mayReturn = isTenancy && !row.commitSent && images.serving === 'Vmm';
  return mayReturn && power.state === 'Off' && power.order === 'Network' ? 'provisioning' : undefined;
}

/** How long a data port may stand elsewhere before it is closed: whoever leads puts it back within seconds of seeing it. */
const strayMs = 30_000;

/**
 * A data port under a guest that may run, which left its domain and which nobody puts back, is closed, whoever instructs the agent or does
 * not. It is never put back here: were this log older than the tenancy on the machine, that would be another tenant's domain.
 */
export function closeStrayed(ctx: Context): void {
  const { row, readings } = ctx;
  const { ports, dataChange } = readings.fabric;
  const isolates = row.isolation?.status === 'Running' && row.isolation.resumed === undefined;
  const isMoving = isolates || dataChange?.status === 'Pending';
  if (!row.guestStarted || isMoving || !ports.some((port) => hasStrayed(port, row))) return;
  const token = `${row.node}.${row.epoch}/keep/quarantine`;
  if (!ctx.expired.has(token)) waitFor(ctx, token, strayMs, () => met);
  else ctx.acts.push({ kind: 'fabric', role: 'Data', domain: 'quarantine', egress: 'None', token });
}

/** What cannot be read, and what still moves, is waited for; one whose move failed is as strayed as before. */
function hasStrayed({ role, state, domain, egress }: Port, { kind, ended, isolation, operation }: Row): boolean {
  if (role !== 'Data' || (state !== 'Ready' && state !== 'Error')) return false;
  if (state === 'Ready' && domain === 'quarantine') return false;
  const drains = operation?.status === 'Running' && operation.instruction.verb === 'drain';
  if (kind === 'Reclaim' && ended && !drains) return true;
  if (isolation === undefined) return false;
  return state === 'Error' || domain !== isolation.domain || egress !== isolation.egress;
}

/** What the boot server answers while no operation needs it: nothing to a guest that came up without its hypervisor. */
export function keepServing(ctx: Context): void {
  const { row, readings } = ctx;
  const { power, images, vmm } = readings;
  const streams = row.kind === 'Tenancy' && row.mapSeen && row.plan !== undefined && !row.commitSent && !row.preparing;
  if (!streams || vmm.vmm !== 'Absent' || isAsking(row)) return;
  const isBare = power.state === 'On' && power.order === 'Disk';
  const returns = power.state === 'Off' && power.order === 'Network';
  if (!isBare && !returns) return;
  const what = isBare ? 'Nothing' : 'Vmm';
  const token = `${row.node}.${row.epoch}/keep/${what}`;
  const { serving, servingChange: change } = images;
  const failedBefore = change?.token === token && change.status === 'Error';
  if (serving !== what && change?.status !== 'Pending' && !failedBefore) ctx.acts.push({ kind: 'serve', what, token });
}

/** The disk that the image goes to: the smallest that fits, so that large disks stay for the tenant. */
function targetDisk(environment: Environment, disks: readonly Disk[]): Disk | undefined {
  const { media, minSizeBytes } = environment.install.disk;
  return disks
    .filter((disk) => media === 'Any' || disk.media === media)
    .filter((disk) => disk.sizeBytes >= Math.max(minSizeBytes, environment.image.sizeBytes))
    .toSorted((a, b) => a.sizeBytes - b.sizeBytes || (a.name < b.name ? -1 : 1))[0];
}

export function planOf(row: Row, readings: Readings): VmmPlan | undefined {
  const { plan } = row;
  const disk = plan === undefined ? undefined : targetDisk(plan.environment, readings.machine.inventory.disks);
  if (plan === undefined || disk === undefined) return undefined;
  const maxRateBytes = row.maxRateBytes ?? plan.environment.install.maxRateBytes;
  return {
    epoch: row.epoch,
    environment: plan.environment,
    hostname: plan.hostname,
    sshKeys: plan.sshKeys,
    disk: disk.name,
    start: row.mapSeen || row.starts > 0 ? 'Keep' : 'Fresh',
    ...(maxRateBytes === undefined ? {} : { maxRateBytes }),
  };
}

export function reimageStep(ctx: Context, operation: RowOperation, { operationId, args }: Reimage): Outcome {
  const { row, readings } = ctx;
  const { vmm } = readings;
  const ofThisEpoch = vmm.epoch === row.epoch;
  if (ofThisEpoch && vmm.guest.state === 'Running' && row.starts > 0) return met;
  if (operation.phase === 'Acting') return startGuest(ctx, operationId);
  if (planOf(row, readings) === undefined) return noDisk(args.environment, readings.machine.inventory.disks);
  const prepared = sequence(
    () => isolationHolds(ctx),
    () => nothingBoots(ctx, operationId),
    () => imageOpen(ctx, args.environment.image, `${operationId}/image`),
    () => powerIs(ctx, 'Off', `${operationId}/off`),
    () =>
      together(
        () => orderIs(ctx, 'Network', `${operationId}/order`),
        () => servingIs(ctx, 'Nothing', `${operationId}/unserve`),
        () => controlPortsAre(ctx, 'provisioning', `${operationId}/control`),
      ),
    () => ((row.guestStarted || row.certificate !== undefined) && !hasForeignDisk(ctx) ? met : unclean),
  );
  if (prepared.kind !== 'Met') return prepared;
  const cleanDisks = row.certificate?.disks ?? row.cleanDisks;
  const { certificate: _usedUp, ...rest } = row;
  ctx.row = { ...rest, guestStarted: true, operation: { ...operation, phase: 'Acting' } };
  if (cleanDisks !== undefined) ctx.row = { ...ctx.row, cleanDisks, disksInUse: row.disksInUse ?? cleanDisks };
  return startGuest(ctx, operationId);
}

/** Before a tenant's first guest began, every disk must be one of those that were wiped; later they are the tenant's. */
const hasForeignDisk = ({ row: { cleanDisks, mapSeen }, readings }: Context): boolean =>
  cleanDisks !== undefined && !mapSeen && notWiped(readings.machine, cleanDisks) > 0;

const unclean = failed('CheckFailed', 'a disk is not one of those that were wiped', false);

/** Behind the point of no return: the log says that a guest may run. */
function startGuest(ctx: Context, operationId: string): Outcome {
  const { row, readings } = ctx;
  const { images, vmm } = readings;
  if (startedBy(ctx, `${operationId}/on`) && vmm.failure !== undefined) return { kind: 'Failed', failure: vmm.failure };
  const wrong = isolated(row, readings)
    ? hasForeignDisk(ctx)
      ? unclean
      : undefined
    : failed('NotIsolated', leftDomain(row));
  // A guest that runs keeps its power; one that has not begun finds nothing to boot.
  if (wrong !== undefined && vmm.vmm === 'Absent') {
    const stopped = servingIs(ctx, 'Nothing', `${operationId}/stop`);
    return stopped.kind === 'Met' ? wrong : stopped;
  }
  return sequence(
    () => {
      // Once it answers with the VMM, a boot may have begun a map under this plan; another plan would allow to erase it.
      if (images.serving === 'Vmm') return met;
      const plan = planOf(row, readings);
      if (plan !== undefined && images.servingChange?.status !== 'Pending') ctx.acts.push({ kind: 'plan', plan });
      return servingIs(ctx, 'Vmm', `${operationId}/serve`);
    },
    () => powerIs(ctx, 'On', `${operationId}/on`),
    () => waitFor(ctx, `${operationId}/guest`, limits.bootMs, () => failed('BootTimeout', bootTimeout(readings))),
  );
}

const leftDomain = ({ isolation }: Row): string =>
  `a data port left ${isolation?.domain ?? 'its domain'} before the machine was started`;

const bootTimeout = ({ power, vmm }: Readings): string =>
  `the guest did not start within ${limits.bootMs / 60_000} minutes: power is ${power.state}, the VMM ${vmm.vmm}`;

function noDisk(environment: Environment, disks: readonly Disk[]): Outcome {
  const { media } = environment.install.disk;
  const largest = Math.max(0, ...disks.map((disk) => disk.sizeBytes));
  return environment.image.sizeBytes > largest
    ? failed('ImageTooLarge', `the image has ${environment.image.sizeBytes} bytes, the largest disk ${largest}`, false)
    : failed('NoSuitableDisk', `no disk of kind ${media} is large enough`, false);
}

/** Isolation is waited for while it is being made, and else must hold: drift before the start is a failure, not a reason to start. */
function isolationHolds(ctx: Context): Outcome {
  const { row, readings } = ctx;
  if (isolated(row, readings)) return met;
  return row.isolation?.status === 'Running'
    ? waitFor(ctx, `${row.isolation.operationId}/beforeStart`, limits.fabricMs, () =>
        failed('NotIsolated', 'isolation hangs'),
      )
    : failed('NotIsolated', leftDomain(row));
}

/**
 * A machine that boots under an older plan would put the image that is exported now under that plan's name: nothing boots while
 * the export is exchanged. A guest that runs stays until the new image was looked at, so that a wrong one takes none down.
 */
function nothingBoots(ctx: Context, operationId: string): Outcome {
  const { images, vmm } = ctx.readings;
  if (images.exported === 'Closed' || images.exportChange?.token === `${operationId}/image`) return met;
  return sequence(
    () => servingIs(ctx, 'Nothing', `${operationId}/unserve`),
    () => (vmm.guest.state === 'Running' ? met : powerIs(ctx, 'Off', `${operationId}/off`)),
  );
}

function imageOpen(ctx: Context, image: Environment['image'], token: string): Outcome {
  const { images } = ctx.readings;
  const opened = need(ctx, {
    change: images.exportChange,
    holds: images.exported === 'Open' && images.exportChange?.token === token,
    token,
    act: { kind: 'open', image, token },
    limitMs: limits.imageMs,
    code: 'ImageUnavailable',
    what: `image ${placeOf(image)}`,
  });
  if (opened.kind !== 'Met' || images.digest === image.sha256) return opened;
  ctx.acts.push({ kind: 'close', token: `${token}/refused` });
  return failed(
    'ImageDigestMismatch',
    `${placeOf(image)} has the digest ${images.digest ?? 'none'}, and ${image.sha256} was asked for`,
    false,
  );
}

/** What is behind the question mark may be a signature, and this stands in status and logs. */
const placeOf = ({ url }: Environment['image']): string => url.split('?', 1)[0] ?? '';

export function devirtualizeStep(ctx: Context, operation: RowOperation, phase: Devirtualize['args']['phase']): Outcome {
  return phase === 'Prepare' ? prepareStep(ctx, operation) : commitStep(ctx, operation);
}

function prepareStep(ctx: Context, { instruction: { operationId } }: RowOperation): Outcome {
  return sequence(
    () => isolationHolds(ctx),
    () =>
      together(
        () => exportClosed(ctx, `${operationId}/close`),
        () => orderIs(ctx, 'Disk', `${operationId}/order`),
        () => servingIs(ctx, 'Nothing', `${operationId}/serve`),
      ),
    () => isolationHolds(ctx),
  );
}

function commitStep(ctx: Context, operation: RowOperation): Outcome {
  const { operationId } = operation.instruction;
  const { row } = ctx;
  if (!row.commitSent && !isolated(row, ctx.readings))
    return failed('NotIsolated', 'a data port left its domain before the commit');
  const token = `${operationId}/commit`;
  const prepared = preparedStill(ctx, operation, token);
  if (prepared.kind !== 'Met') return prepared;
  if (!row.commitSent) ctx.row = { ...row, commitSent: true, operation: { ...operation, phase: 'Acting' } };
  const left = vmmChange(ctx, {
    holds: ctx.readings.vmm.vmm === 'Absent',
    token,
    act: { kind: 'devirtualize', token },
    limitMs: limits.devirtualizeMs,
    code: 'VmmFailed',
    what: 'the hypervisor leaving',
  });
  // An uncertain commit closes the control port as well.
  if (left.kind === 'Waiting') return left;
  const closed = controlPortsAre(ctx, 'closed', `${operationId}/closed`);
  return closed.kind === 'Met' ? left : closed;
}

/**
 * Until the hypervisor was told: an agent that dies between its log and that finds, when it is back, a machine whose boot order its tenant
 * may have turned. What was prepared is then prepared again.
 */
function preparedStill(ctx: Context, operation: RowOperation, token: string): Outcome {
  const { row, readings } = ctx;
  const { vmm } = readings;
  if (vmm.vmm === 'Absent' || vmm.change?.token === token || isPrepared(row, readings)) return met;
  const again = prepareStep(ctx, operation);
  return again.kind === 'Met' ? failed('VmmFailed', 'the copy is no longer complete, or its hypervisor failed') : again;
}
