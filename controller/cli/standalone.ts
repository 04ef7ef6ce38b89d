/**
 * `bitvisor-operator standalone` (`npm start`): a whole site on one machine. API server, operator and sync in this process, the simulated
 * agents in a second one, a git repository between the person and both.
 *
 * Invariants:
 * 1. Everything that must outlive the process is in the data directory; a second start continues from it.
 * 2. One process a data directory: the API server's lock on its database comes first.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { AgentPool } from '../agents/pool.ts';
import { namespaces } from '../api/meta.ts';
import { defaultBlastSettings } from '../domain/blast.ts';
import { defaultGuardSettings } from '../domain/deletion-guard.ts';
import { formatProblem } from '../gitops/problems.ts';
import type { SyncResult } from '../gitops/status.ts';
import { readCrds } from '../gitops/validate.ts';
import { schemaValidator } from '../gitops/validator.ts';
import { createKubeClient } from '../kube/client.ts';
import { type Lease, leaseKind } from '../kube/lease.ts';
import { type KubeClient, KubeError } from '../kube/port.ts';
import type { Operator } from '../reconcilers/operator.ts';
import { type Clock, sleep } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { Random } from '../runtime/random.ts';
import { keepRenewed } from '../standalone/pki.ts';
import { type Standalone, startStandalone } from '../standalone/server.ts';
import { CliError } from './arguments.ts';
import type { QemuConfig } from './drivers.ts';
import { startGitOps } from './gitops.ts';
import { defaultNamespace, type Leader, operatorName, startLeader } from './leadership.ts';
import { type MachineRoom, startMachineRoom } from './machine-room.ts';
import { type Output, type Picture, Progress } from './progress.ts';
import { openRepository, type Repository } from './repository.ts';
import { viewOf } from './settled.ts';

export interface StandaloneFlags {
  readonly dataDir: string;
  readonly port?: number;
  readonly timeFactor: number;
  readonly example: string;
  readonly untilReady?: boolean;
  /** Seconds. */
  readonly timeout: number;
}

export interface StandaloneContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly signal: AbortSignal;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly output: Output;
  readonly version: string;
  readonly crdDirectory: string;
  /** How this program is started, for the process of the agents. */
  readonly program: readonly string[];
  /** Goes to `DATA/log/operator.log`: the terminal is for people. */
  readonly log: Logger;
  readonly startedAt: number;
  /** Machines that QEMU plays in place of simulated ones, and what a person may try with them. */
  readonly lab?: { readonly qemu: QemuConfig; readonly tries: readonly string[] };
}

/** kubectl's own habit, so that the address looks familiar; another one where it is taken. */
const usualPort = 6443;
const lookEveryMs = 250;
const redrawEveryMs = 500;
/** Given to a guest to shut down, in seconds of the simulated room. */
const roomDrainSeconds = 300;
/** A guest of the lab is off in a few. */
const labDrainSeconds = 30;
const identity = 'standalone';

interface Site {
  readonly server: Standalone;
  readonly client: KubeClient;
  readonly repository: Repository;
  readonly room: MachineRoom;
  readonly leader: Leader;
  readonly progress: Progress;
  /** The newest pass of the sync. */
  sync(): SyncResult | undefined;
  failure(): string | undefined;
  /** On from the loss of leadership until it was said that the operator works again. */
  readonly pause: { isOn: boolean };
}

/** What is closed at the end, in the opposite order of its opening. */
type Cleanup = (() => Promise<void>)[];

async function openServer(flags: StandaloneFlags, context: StandaloneContext): Promise<Standalone> {
  const { clock, random, log, crdDirectory } = context;
  const { dataDir } = flags;
  const crds = await readCrds(crdDirectory);
  const remembered = join(dataDir, 'port');
  const kept = existsSync(remembered) ? Number(readFileSync(remembered, 'utf8')) : usualPort;
  const ports = flags.port === undefined ? [Number.isInteger(kept) ? kept : usualPort, 0] : [flags.port];
  for (const port of ports) {
    try {
      const server = await startStandalone({ dataDir, port, crds, clock, random, log });
      writeFileSync(remembered, `${server.port}\n`);
      return server;
    } catch (error) {
      const { cause, message } = error as Error;
      const isTaken = (cause as NodeJS.ErrnoException | undefined)?.code === 'EADDRINUSE';
      if (isTaken && port !== 0 && flags.port === undefined) continue;
      throw new CliError(isTaken ? `--port: ${message}` : `--data-dir ${dataDir}: ${message}`);
    }
  }
  throw new CliError('--port: no port is free');
}

const isReason = (error: unknown, reason: string): boolean => error instanceof KubeError && error.reason === reason;

async function prepareNamespace(client: KubeClient): Promise<void> {
  const metadata = { name: defaultNamespace };
  await client.create(namespaces, { apiVersion: 'v1', kind: 'Namespace', metadata }).catch((error: unknown) => {
    if (!isReason(error, 'AlreadyExists')) throw error;
  });
}

/** The lock on the data directory proves that the process of the same name that held the Lease is gone: nobody need wait for it. */
async function releaseLease(client: KubeClient): Promise<void> {
  const key = { namespace: defaultNamespace, name: operatorName };
  try {
    const { metadata, spec } = await client.get<Lease>(leaseKind, key);
    if (spec?.holderIdentity?.startsWith(`${identity}_`) !== true) return;
    const { uid, resourceVersion } = metadata;
    const precondition = {
      ...(uid === undefined ? {} : { uid }),
      ...(resourceVersion === undefined ? {} : { resourceVersion }),
    };
    await client.patch(leaseKind, key, { spec: { holderIdentity: '' } }, { type: 'merge', ...precondition });
  } catch (error) {
    if (!isReason(error, 'NotFound') && !isReason(error, 'Conflict')) throw error;
  }
}

function reportSync(result: SyncResult, before: SyncResult | undefined, progress: Progress): void {
  const problems = result.files.flatMap((file) => file.problems.map(formatProblem));
  const old = new Set(before?.files.flatMap((file) => file.problems.map(formatProblem)));
  const isNews = result.commit !== before?.commit || result.result !== before?.result;
  if (isNews) progress.event(`git ${result.commit?.slice(0, 10) ?? '-'}: ${result.result}: ${result.message}`);
  for (const problem of problems) if (isNews || !old.has(problem)) progress.event(`  ${problem}`);
}

async function open(flags: StandaloneFlags, context: StandaloneContext, cleanup: Cleanup): Promise<Site> {
  const { clock, random, log, environment, output, program, version } = context;
  const { dataDir } = flags;
  const logs = join(dataDir, 'log');
  mkdirSync(logs, { recursive: true, mode: 0o700 });
  const progress = new Progress(output, clock, context.startedAt);
  let failure: string | undefined;
  const server = await openServer(flags, context);
  cleanup.push(() => server.close());
  const directory = join(dataDir, 'repository');
  const cacheDirectory = join(dataDir, 'git-cache');
  const repository = await openRepository({ directory, example: flags.example, cacheDirectory, environment });
  if (!repository.isGit)
    progress.note(`git is not installed: changes of files in ${directory} count at once, without commits`);
  const room = await startMachineRoom({
    repository,
    directory: join(dataDir, 'agents'),
    logPath: join(logs, 'agents.log'),
    timeFactor: flags.timeFactor,
    ...(context.lab === undefined ? {} : { qemu: context.lab.qemu }),
    clock,
    program,
    note: (line) => progress.note(line),
    onEnded: (reason) => (failure = reason),
  });
  cleanup.push(() => room.stop());
  const userAgent = `${operatorName}/${version} (standalone)`;
  const client = await createKubeClient({ kubeconfigPath: server.kubeconfigPath, clock, userAgent });
  cleanup.push(() => client.close());
  await prepareNamespace(client);
  await releaseLease(client);
  let sync: SyncResult | undefined;
  const onResult = (result: SyncResult): void => {
    reportSync(result, sync, progress);
    sync = result;
  };
  const validator = schemaValidator(await readCrds(context.crdDirectory));
  // A folder has no commit to look at: it is read every time.
  const intervalMs = repository.isGit ? 30_000 : 2_000;
  const gitOps = { source: repository.source, validator, clock, random, log, intervalMs, onResult };
  const pause = { isOn: false };
  const connector = new AgentPool({ ...room.operator, caPem: room.caPem, clock, random });
  const renew = async (): Promise<void> => connector.renew({ ...(await room.renew()), caPem: room.caPem });
  const endRenewal = keepRenewed(clock, renew, (error) => log.error('cannot renew certificates', { err: error }));
  cleanup.push(async () => endRenewal());
  const leader = startLeader({
    client,
    connector,
    clock,
    random,
    log,
    settings: {
      deletions: defaultGuardSettings,
      blast: defaultBlastSettings,
      drainSeconds: context.lab === undefined ? Math.max(10, roomDrainSeconds / flags.timeFactor) : labDrainSeconds,
    },
    namespace: defaultNamespace,
    identity,
    companion: (client) => startGitOps({ ...gitOps, client, namespace: defaultNamespace }),
    onLost: (reason) => {
      pause.isOn = true;
      progress.event(`the operator pauses: ${reason}`);
    },
  });
  cleanup.push(() => leader.stop());
  return { server, client, repository, room, leader, progress, pause, sync: () => sync, failure: () => failure };
}

function welcome(site: Site, flags: StandaloneFlags, { lab }: StandaloneContext): void {
  const { server, repository, room, progress } = site;
  const here = (path: string): string => {
    const shorter = relative('.', path);
    return shorter.startsWith('..') || shorter === '' ? path : shorter;
  };
  const config = here(server.kubeconfigPath);
  const folder = here(repository.directory);
  const lines = [
    `API server   ${server.url}`,
    `kubeconfig   ${config}`,
    `repository   ${folder}${repository.isNew ? ` (new, from ${here(flags.example)})` : ''}`,
    lab === undefined
      ? `machine room ${room.nodes} simulated nodes behind ${room.agents} agents, ${flags.timeFactor} times as fast as real ones`
      : `machine room ${room.nodes} nodes that QEMU plays behind ${room.agents} agent`,
    `logs         ${here(join(flags.dataDir, 'log'))}`,
    '',
    'Try, in another terminal:',
    `  export KUBECONFIG=${config}`,
    '  kubectl get nodeallocations -A -w',
    '  kubectl get physicalnodes',
    `  edit a file in ${folder}, for example the replicas of an allocation, ${repository.isGit ? 'and then' : 'and watch'}`,
    ...(repository.isGit ? [`  git -C ${folder} commit -am 'More nodes'`] : []),
    ...(lab === undefined ? [] : lab.tries),
    'Ctrl-C ends it; the next start goes on where this one ended.',
    '',
  ];
  for (const line of lines) progress.note(line);
}

function pictureOf(site: Site, operator: Operator | undefined): Picture {
  const nodes = new Map<string, number>();
  const sync = site.sync();
  const repository = sync === undefined ? 'not read yet' : `${sync.commit?.slice(0, 10) ?? '-'} ${sync.result}`;
  if (operator === undefined) return { agents: { connected: 0, known: 0 }, nodes, repository, allocations: [] };
  const { fleet } = operator;
  for (const node of fleet.nodes.values()) {
    const state = node.status?.state ?? 'Enrolling';
    nodes.set(state, (nodes.get(state) ?? 0) + 1);
  }
  const connected = [...fleet.links()].filter((link) => link.state().synced).length;
  const allocations = [...fleet.allocations.values()].map(viewOf).sort((a, b) => (a.key < b.key ? -1 : 1));
  return { agents: { connected, known: fleet.agents.size }, nodes, repository, allocations };
}

/** Sentences that say what is missing; none when everything that git asks for is there. */
function missingIn(site: Site, picture: Picture): string[] {
  const sync = site.sync();
  if (sync === undefined) return ['the repository was not read yet'];
  const missing = picture.allocations.flatMap(({ key, missing }) => missing.map((what) => `${key}: ${what}`));
  if (sync.result !== 'Synced') missing.push(`git: ${sync.result}: ${sync.message}`);
  if (picture.allocations.length === 0) missing.push('there are no allocations');
  if (picture.agents.connected < picture.agents.known) {
    missing.push(`${picture.agents.connected} of ${picture.agents.known} agents are connected`);
  }
  return missing;
}

/** @returns the exit code */
async function watch(site: Site, flags: StandaloneFlags, context: StandaloneContext): Promise<number> {
  const { clock, signal } = context;
  const { progress, leader } = site;
  const deadline = clock.monotonic() + flags.timeout * 1000;
  let drawnAt = Number.NEGATIVE_INFINITY;
  let wasReady = false;
  let isSettled = false;
  while (!signal.aborted) {
    const operator = leader.operator();
    if (operator !== undefined && site.pause.isOn) {
      site.pause.isOn = false;
      progress.event('the operator works again');
    }
    const picture = pictureOf(site, operator);
    const now = clock.monotonic();
    const failure = site.failure();
    if (failure !== undefined) throw new CliError(failure);
    const missing = operator === undefined ? ['the operator has not started yet'] : missingIn(site, picture);
    if (operator !== undefined && now - drawnAt >= redrawEveryMs) {
      progress.show(picture);
      drawnAt = now;
    }
    const isReady = picture.allocations.length > 0 && picture.allocations.every((view) => view.isReady);
    if (isReady && !wasReady) progress.event('every allocation is Ready');
    wasReady = isReady;
    const settles = missing.length === 0;
    if (settles && !isSettled) progress.event('every allocation has what its spec asks for');
    isSettled = settles;
    if (flags.untilReady === true && isSettled) return 0;
    if (flags.untilReady === true && now >= deadline) {
      progress.note(`Not everything is as asked for after ${flags.timeout} s (--timeout):`);
      for (const what of missing) progress.note(`  ${what}`);
      return 1;
    }
    await sleep(clock, lookEveryMs, signal).catch(() => undefined);
  }
  progress.event('leaving');
  return flags.untilReady === true ? 1 : 0;
}

/** @returns the exit code @throws CliError */
export async function runStandalone(given: StandaloneFlags, context: StandaloneContext): Promise<number> {
  const flags = { ...given, dataDir: resolve(given.dataDir), example: resolve(given.example) };
  const cleanup: Cleanup = [];
  try {
    const site = await open(flags, context, cleanup);
    if (!context.signal.aborted) welcome(site, flags, context);
    return await watch(site, flags, context);
  } finally {
    for (const close of cleanup.reverse()) await close();
  }
}
