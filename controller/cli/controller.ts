/**
 * `bitvisor-operator controller`: the operator for a cluster.
 *
 * Invariant: a process that has lost leadership ends at once with a failure, so that the next one starts with an empty memory.
 */
import { readFileSync } from 'node:fs';
import type { Server } from 'node:http';
import { join } from 'node:path';
import { AgentPool, type AgentsTls } from '../agents/pool.ts';
import { GitAddressError } from '../gitops/git-address.ts';
import { gitSource } from '../gitops/git-source.ts';
import { type Source, SourceError } from '../gitops/source.ts';
import { readCrds } from '../gitops/validate.ts';
import { schemaValidator } from '../gitops/validator.ts';
import { createKubeClient } from '../kube/client.ts';
import type { KubeClient } from '../kube/port.ts';
import type { OperatorOptions } from '../reconcilers/operator.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import { createMetrics, type Metrics } from '../runtime/metrics.ts';
import type { Random } from '../runtime/random.ts';
import { CliError } from './arguments.ts';
import { startGitOps } from './gitops.ts';
import { aborted, type Leader, operatorName, startLeader } from './leadership.ts';
import { serveAnswers } from './probes.ts';
import { followFiles } from './tls-files.ts';

/** As the flags give them. Durations in seconds. */
export interface ControllerFlags {
  readonly kubeconfig?: string;
  readonly context?: string;
  readonly namespace: string;
  readonly identity?: string;
  readonly agentsTls: string;
  readonly metricsPort?: number;
  readonly healthPort?: number;
  readonly drainSeconds: number;
  readonly holdAllocations: number;
  readonly holdShare: number;
  readonly holdWindow: number;
  readonly failureShare: number;
  readonly failureMinimum: number;
  readonly failureWindow: number;
  readonly gitRepository?: string;
  readonly gitBranch: string;
  readonly gitPath?: string;
  readonly gitInterval: number;
  readonly gitUsername?: string;
  readonly gitPasswordFile?: string;
  readonly gitCa?: string;
  readonly gitSshKey?: string;
  readonly gitKnownHosts?: string;
}

export interface ControllerContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly signal: AbortSignal;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly version: string;
  readonly crdDirectory: string;
  /** For clones; need not survive. */
  readonly cacheDirectory: string;
}

function readTls(directory: string): AgentsTls {
  const read = (file: string): string => {
    try {
      return readFileSync(join(directory, file), 'utf8');
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new CliError(
        `--agents-tls: ${why}; the directory must hold ca.crt (who signs agents), tls.crt and tls.key (the operator's own)`,
      );
    }
  };
  return { caPem: read('ca.crt'), certPem: read('tls.crt'), keyPem: read('tls.key') };
}

function poolOf(tls: AgentsTls, clock: Clock, random: Random): AgentPool {
  try {
    return new AgentPool({ ...tls, clock, random });
  } catch (error) {
    throw new CliError(`--agents-tls: ${error instanceof Error ? error.message : error}`);
  }
}

function settingsOf(flags: ControllerFlags): OperatorOptions['settings'] {
  return {
    deletions: {
      windowMs: flags.holdWindow * 1000,
      maxAllocations: flags.holdAllocations,
      maxShare: flags.holdShare,
    },
    blast: { windowMs: flags.failureWindow * 1000, share: flags.failureShare, minNodes: flags.failureMinimum },
    drainSeconds: flags.drainSeconds,
  };
}

function sourceOf(flags: ControllerFlags, context: ControllerContext): Source | undefined {
  const { gitRepository, gitBranch, gitPath, gitUsername, gitPasswordFile, gitCa, gitSshKey, gitKnownHosts } = flags;
  if (gitRepository === undefined) return undefined;
  try {
    return gitSource({
      repository: gitRepository,
      branch: gitBranch,
      ...(gitPath === undefined ? {} : { path: gitPath }),
      cacheDirectory: context.cacheDirectory,
      environment: context.environment,
      credentials: {
        ...(gitUsername === undefined ? {} : { username: gitUsername }),
        ...(gitPasswordFile === undefined ? {} : { passwordFile: gitPasswordFile }),
        ...(gitCa === undefined ? {} : { caFile: gitCa }),
        ...(gitSshKey === undefined ? {} : { sshKeyFile: gitSshKey }),
        ...(gitKnownHosts === undefined ? {} : { knownHostsFile: gitKnownHosts }),
      },
    });
  } catch (error) {
    if (error instanceof GitAddressError || error instanceof SourceError) {
      throw new CliError(`--git-repository, --git-branch or --git-path: ${error.message}`);
    }
    throw error;
  }
}

function openClient(flags: ControllerFlags, context: ControllerContext, metrics: Metrics): Promise<KubeClient> {
  const { kubeconfig, context: contextName } = flags;
  return createKubeClient({
    ...(kubeconfig === undefined ? {} : { kubeconfigPath: kubeconfig }),
    ...(contextName === undefined ? {} : { context: contextName }),
    clock: context.clock,
    userAgent: `${operatorName}/${context.version} (controller)`,
    onCall: ({ verb, kind, outcome, seconds }) => {
      metrics.apiCalls.inc({ verb, kind, outcome });
      metrics.apiSeconds.observe({ verb }, seconds);
    },
  }).catch((error: unknown) => {
    throw new CliError(`--kubeconfig or --context: ${error instanceof Error ? error.message : error}`);
  });
}

async function serveProbes(flags: ControllerFlags, metrics: Metrics, isReady: () => boolean): Promise<Server[]> {
  const servers: Server[] = [];
  const { healthPort, metricsPort } = flags;
  if (healthPort !== undefined) {
    const health = await serveAnswers(healthPort, '--health-port', async (path) => {
      if (path === '/healthz') return { status: 200, text: 'ok\n' };
      if (path !== '/readyz') return undefined;
      return isReady() ? { status: 200, text: 'ok\n' } : { status: 503, text: 'the caches have not synced\n' };
    });
    servers.push(health);
  }
  if (metricsPort !== undefined) {
    const type = metrics.registry.contentType;
    const scraped = await serveAnswers(metricsPort, '--metrics-port', async (path) =>
      path === '/metrics' ? { status: 200, text: await metrics.text(), type } : undefined,
    );
    servers.push(scraped);
  }
  return servers;
}

/** @returns the exit code: 0 when it was told to end, 1 when it lost leadership @throws CliError */
export async function runController(flags: ControllerFlags, context: ControllerContext): Promise<number> {
  const { clock, random, log, signal } = context;
  const tls = readTls(flags.agentsTls);
  const source = sourceOf(flags, context);
  const validator = schemaValidator(source === undefined ? [] : await readCrds(context.crdDirectory));
  const metrics = createMetrics({ process: true });
  const client = await openClient(flags, context, metrics);
  const { namespace } = flags;
  const lost = new AbortController();
  const connector = poolOf(tls, clock, random);
  const intervalMs = flags.gitInterval * 1000;
  let leader: Leader | undefined;
  const servers = await serveProbes(
    flags,
    metrics,
    () => leader !== undefined && (!leader.isLeader() || leader.operator() !== undefined),
  );
  leader = startLeader({
    client,
    connector,
    clock,
    random,
    log,
    metrics,
    settings: settingsOf(flags),
    namespace,
    ...(flags.identity === undefined ? {} : { identity: flags.identity }),
    ...(source === undefined
      ? {}
      : {
          companion: (client) => startGitOps({ client, source, validator, namespace, clock, random, log, intervalMs }),
        }),
    onLost: (reason) => {
      log.error('leaving: no longer the leader', { reason });
      lost.abort();
    },
  });
  const read = (): AgentsTls => readTls(flags.agentsTls);
  const over = AbortSignal.any([signal, lost.signal]);
  void followFiles({ clock, log, signal: over, current: tls, read, apply: (files) => connector.renew(files) });
  await aborted(over);
  // Whoever leads now must not meet this process's last writes: nothing is awaited.
  if (lost.signal.aborted) return 1;
  await leader.stop();
  await client.close();
  for (const server of servers) server.close();
  return 0;
}
