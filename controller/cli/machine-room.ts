/**
 * The simulated machine room of a standalone site: one process that serves every agent of the repository whose endpoint is this machine.
 *
 * Invariants:
 * 1. An agent keeps its port; where another program has taken it, the new one is committed to the repository.
 * 2. The process ends with this one, however this one ends: it holds a channel that the system closes.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { parseHostlist } from '../api/hostlist.ts';
import { readFolder } from '../gitops/folder-source.ts';
import { defaultSourceLimits } from '../gitops/source.ts';
import { type Clock, sleep } from '../runtime/clock.ts';
import { CertificateAuthority } from '../standalone/pki.ts';
import { isObject } from '../standalone/schema/index.ts';
import type { AgentsConfig } from './agents.ts';
import { CliError } from './arguments.ts';
import type { QemuConfig } from './drivers.ts';
import { operatorName } from './leadership.ts';
import type { Repository } from './repository.ts';

interface LocalRack {
  readonly file: string;
  readonly host: string;
  readonly port: number;
  readonly spec: AgentsConfig['racks'][number];
}

export interface MachineRoomOptions {
  readonly repository: Repository;
  /** For logs, machines, keys and the configuration. */
  readonly directory: string;
  readonly logPath: string;
  readonly timeFactor: number;
  /** Machines that QEMU plays in place of simulated ones. */
  readonly qemu?: QemuConfig;
  readonly clock: Clock;
  /** The program to start for the agents. */
  readonly program: readonly string[];
  readonly note: (line: string) => void;
  /** It ended though nobody asked it to. */
  readonly onEnded: (reason: string) => void;
}

export interface MachineRoom {
  readonly agents: number;
  readonly nodes: number;
  readonly caPem: string;
  /** The operator's own certificate for the agents. */
  readonly operator: { readonly certPem: string; readonly keyPem: string };
  readonly pid: number | undefined;
  /** Issues anew what runs out soon: the agents' files, which they read again, and the operator's certificate. */
  renew(): Promise<MachineRoom['operator']>;
  stop(): Promise<void>;
}

const localHosts = ['127.0.0.1', 'localhost'];
const agentName = /^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$/;
/** A room of an operator that was killed needs a moment to notice. */
const portPatienceMs = 3_000;
const startPatienceMs = 60_000;
/** Machines that QEMU plays, and their network, are taken away meanwhile. */
const stopPatienceMs = 8_000;

function rackOf(object: unknown, file: string): LocalRack | undefined {
  if (!isObject(object) || object.kind !== 'BitVisorAgent') return undefined;
  const { metadata, spec } = object;
  if (!isObject(metadata) || !isObject(spec) || !isObject(spec.location)) return undefined;
  const { location, commission } = spec;
  const name = String(metadata.name);
  const url = URL.parse(String(spec.endpoint));
  if (url === null || !localHosts.includes(url.hostname) || url.port === '' || !agentName.test(name)) return undefined;
  const { storeId } = isObject(commission) ? commission : {};
  const nodes = String(spec.nodes);
  try {
    parseHostlist(nodes);
  } catch {
    return undefined;
  }
  const place = { site: String(location.site), rack: String(location.rack) };
  const store = typeof storeId === 'string' ? { storeId } : {};
  return { file, host: url.hostname, port: Number(url.port), spec: { name, ...place, nodes, ...store } };
}

/** What does not parse is left out: the sync says so, with its line. */
async function localRacks(directory: string): Promise<LocalRack[]> {
  const { files } = await readFolder(directory, defaultSourceLimits);
  const racks = new Map<string, LocalRack>();
  for (const { path, bytes } of files) {
    if (!/\.(ya?ml|json)$/i.test(path)) continue;
    const documents = parseAllDocuments(Buffer.from(bytes).toString('utf8'));
    for (const document of Array.isArray(documents) ? documents : []) {
      if (document.errors.length > 0) continue;
      let object: unknown;
      try {
        object = document.toJS();
      } catch {
        continue;
      }
      const rack = rackOf(object, path);
      if (rack !== undefined && !racks.has(rack.spec.name)) racks.set(rack.spec.name, rack);
    }
  }
  return [...racks.values()];
}

/** The port that can be listened at (0 asks for any), or undefined. */
function tryPort(port: number): Promise<number | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(undefined));
    server.listen(port, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' ? address?.port : undefined));
    });
  });
}

async function choosePort(wanted: number, taken: ReadonlySet<number>, until: number, clock: Clock): Promise<number> {
  while (!taken.has(wanted)) {
    if ((await tryPort(wanted)) !== undefined) return wanted;
    if (clock.monotonic() >= until) break;
    await sleep(clock, 100);
  }
  for (let attempt = 0; attempt < 100; attempt++) {
    const free = await tryPort(0);
    if (free !== undefined && !taken.has(free)) return free;
  }
  throw new CliError('no free port is left for the agents');
}

async function settlePorts(racks: readonly LocalRack[], options: MachineRoomOptions): Promise<Map<string, number>> {
  const { repository, clock, note } = options;
  const until = clock.monotonic() + portPatienceMs;
  const ports = new Map<string, number>();
  const changed: { rack: LocalRack; port: number }[] = [];
  const taken = new Set<number>();
  for (const rack of racks) {
    const port = await choosePort(rack.port, taken, until, clock);
    taken.add(port);
    ports.set(rack.spec.name, port);
    if (port !== rack.port) changed.push({ rack, port });
  }
  const files = new Map<string, string>();
  // Marks first: a new port may be the old one of an agent further down.
  for (const [index, { rack }] of changed.entries()) {
    const path = join(repository.directory, rack.file);
    const text = files.get(rack.file) ?? readFileSync(path, 'utf8');
    const old = new RegExp(`https://${rack.host.replaceAll('.', '\\.')}:${rack.port}(?!\\d)`);
    files.set(rack.file, text.replace(old, `https://${rack.host}:\u0000${index}\u0000`));
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the marks of above, which no manifest holds
  const mark = /\u0000(\d+)\u0000/g;
  for (const [file, text] of files) {
    const settled = text.replaceAll(mark, (_, index: string) => String(changed[Number(index)]?.port));
    writeFileSync(join(repository.directory, file), settled);
  }
  if (changed.length > 0) {
    note(
      `${changed.length} agents listen at other ports, because theirs are taken; ${[...files.keys()].join(', ')} says which`,
    );
    await repository.commit([...files.keys()], 'Agents at ports that are free on this machine');
  }
  return ports;
}

function launch(options: MachineRoomOptions, configPath: string): ChildProcess {
  const [program = '', ...words] = options.program;
  const log = openSync(options.logPath, 'a', 0o600);
  try {
    return spawn(program, [...words, 'agent', '--config', configPath], { stdio: ['ignore', log, log, 'ipc'] });
  } finally {
    closeSync(log);
  }
}

/** Resolves with the first message: all agents listen. */
function listening(child: ChildProcess, options: MachineRoomOptions): Promise<void> {
  const { clock, logPath } = options;
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => {
      cancel();
      child.kill('SIGKILL');
      reject(new CliError(`the agents did not start: ${why}; see ${logPath}`));
    };
    const cancel = clock.setTimer(startPatienceMs, () => fail(`nothing was heard for ${startPatienceMs / 1000} s`));
    child.once('error', (error) => fail(error.message));
    child.once('exit', (code, signal) => fail(`their process ended (${signal ?? code})`));
    child.once('message', () => {
      cancel();
      child.removeAllListeners('exit');
      resolve();
    });
  });
}

/** Starts the agents and resolves when all of them listen. @throws CliError */
export async function startMachineRoom(options: MachineRoomOptions): Promise<MachineRoom> {
  const { repository, directory, clock, timeFactor, qemu, onEnded } = options;
  const keys = join(directory, 'pki');
  mkdirSync(keys, { recursive: true, mode: 0o700 });
  const authority = await CertificateAuthority.open(keys, clock);
  const racks = await localRacks(repository.directory);
  const renew = async (): Promise<MachineRoom['operator']> => {
    for (const { spec } of racks) await authority.namedServerCertificate(spec.name);
    const operator = await authority.namedClientCertificate(operatorName);
    return { certPem: operator.certificatePem, keyPem: operator.keyPem };
  };
  const own = {
    caPem: authority.caPem,
    operator: await renew(),
    renew,
    agents: racks.length,
    nodes: racks.reduce((sum, { spec }) => sum + parseHostlist(spec.nodes).length, 0),
  };
  if (racks.length === 0) return { ...own, pid: undefined, stop: async () => {} };
  const ports = await settlePorts(racks, options);
  const config: AgentsConfig = {
    dataDir: 'racks',
    tls: { ca: 'pki/ca.crt', certificate: 'pki/server-{name}.crt', key: 'pki/server-{name}.key' },
    operator: operatorName,
    ...(qemu === undefined ? { room: { timeFactor } } : { drivers: 'qemu', qemu }),
    racks: racks.map(({ spec }) => ({ ...spec, port: ports.get(spec.name) ?? 0 })),
  };
  const configPath = join(directory, 'agents.json');
  writeFileSync(configPath, JSON.stringify(config, undefined, 2), { mode: 0o600 });
  const child = launch(options, configPath);
  await listening(child, options);
  let isStopping = false;
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.once('exit', (code, signal) => {
    if (!isStopping) onEnded(`the process of the agents ended (${signal ?? code}); see ${options.logPath}`);
  });
  return {
    ...own,
    pid: child.pid,
    async stop() {
      isStopping = true;
      const cancel = clock.setTimer(stopPatienceMs, () => child.kill('SIGKILL'));
      if (child.connected) child.disconnect();
      await ended;
      cancel();
    },
  };
}
