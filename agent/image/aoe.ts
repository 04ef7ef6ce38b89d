/**
 * Exports a file over ATA over Ethernet, read-only, by a vblade process.
 *
 * vblade takes the target's config string from the wire alone, and hears nothing that is sent from its own interface. So it listens on one end of a pair of
 * interfaces of its own (veth); the string is set and read back from the other end, which joins the network only then.
 *
 * Invariants:
 * 1. No initiator sees the target before its config string names image and generation: check it before the first read.
 * 2. Only the listed MAC addresses are answered. AoE has no authentication: this keeps out mistakes, not attackers.
 * 3. When `close` resolves, the process and its interfaces are gone.
 * Needs root (or CAP_NET_ADMIN and CAP_NET_RAW), vblade, aoetools and iproute2.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);
const commandTimeoutMs = 10_000;
/** vblade's own limit; one of them is taken by the interface that sets the config string. */
const mostMacs = 31;
/** The protocol's limit of a config string. */
const mostConfigBytes = 1024;

export interface AoeExportOptions {
  /** A whole image; opened read-only. */
  readonly file: string;
  /** The target's address: shelf 0 to 65534, slot 0 to 254; one for each export of the segment. */
  readonly shelf: number;
  readonly slot: number;
  /** The bridge that initiators are on. */
  readonly bridge: string;
  /** Network namespace of the bridge; absent: that of this process. */
  readonly netns?: string;
  /** Who may read: MAC addresses, 31 at most. */
  readonly macs: readonly string[];
  readonly digest: string;
  readonly sizeBytes: number;
  /** Counts the images of this target: an initiator that knows an older one must not go on reading. */
  readonly generation: number;
  /** Called when the process ends unasked. */
  readonly onEnd?: (why: string) => void;
}

export interface AoeExport {
  readonly config: string;
  close(): Promise<void>;
}

/** What initiators compare: docs/images.md. */
export function aoeConfig({
  digest,
  sizeBytes,
  generation,
}: Pick<AoeExportOptions, 'digest' | 'sizeBytes' | 'generation'>): string {
  return `bitvisor.io/image sha256=${digest} size=${sizeBytes} generation=${generation}`;
}

function check({ shelf, slot, macs, ...options }: AoeExportOptions): void {
  const isAddress =
    Number.isInteger(shelf) && shelf >= 0 && shelf < 65_535 && Number.isInteger(slot) && slot >= 0 && slot < 255;
  if (!isAddress) throw new Error(`${shelf}.${slot} is no AoE address: shelves are 0 to 65534, slots 0 to 254`);
  const isList =
    macs.length > 0 && macs.length <= mostMacs && macs.every((mac) => /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(mac));
  if (!isList) throw new Error(`an AoE export is for 1 to ${mostMacs} MAC addresses`);
  if (aoeConfig(options).length > mostConfigBytes) throw new Error('the config string is too long');
}

/** Runs programs in the namespace of the bridge. */
class Namespace {
  readonly #netns: string | undefined;

  constructor(netns: string | undefined) {
    this.#netns = netns;
  }

  words(program: string, args: readonly string[]): [string, string[]] {
    return this.#netns === undefined ? [program, [...args]] : ['ip', ['netns', 'exec', this.#netns, program, ...args]];
  }

  /** @returns what it printed */
  async run(program: string, ...args: readonly string[]): Promise<string> {
    const [command, words] = this.words(program, args);
    return (await run(command, words, { timeout: commandTimeoutMs })).stdout;
  }
}

function ended(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => resolve(signal === null ? `exit code ${code}` : `signal ${signal}`));
  });
}

/** Resolves when vblade says that it serves; `end` is why it ended otherwise. @throws */
function serving(child: ChildProcess, end: Promise<string>, file: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let said = '';
    const look = (text: Buffer): void => {
      said = (said + text.toString()).slice(-2000);
      if (/sectors O_RDONLY/.test(said)) resolve();
    };
    child.stdout?.on('data', look);
    child.stderr?.on('data', look);
    void end.then((why) => reject(new Error(`vblade of ${file} ended (${why}): ${said.trim()}`)));
  });
}

/** Resolves when initiators can read. @throws with what failed; nothing is left behind then */
export async function startAoeExport(options: AoeExportOptions): Promise<AoeExport> {
  check(options);
  const { file, shelf, slot, bridge, netns, macs, onEnd } = options;
  const namespace = new Namespace(netns);
  const [target, port] = [`aoe${shelf}.${slot}`, `aoep${shelf}.${slot}`];
  let child: ChildProcess | undefined;
  let isAsked = false;
  const close = async (): Promise<void> => {
    isAsked = true;
    if (child !== undefined && child.exitCode === null && child.signalCode === null) {
      const end = ended(child);
      child.kill('SIGKILL');
      await end;
    }
    await namespace.run('ip', 'link', 'del', target).catch(() => {});
  };
  try {
    // What a killed agent left behind: its vblade ends with its interface.
    await namespace.run('ip', 'link', 'del', target).catch(() => {});
    await namespace.run('ip', 'link', 'add', target, 'type', 'veth', 'peer', 'name', port);
    for (const name of [target, port]) await namespace.run('ip', 'link', 'set', name, 'up');
    const own = await macOf(namespace, port);
    const args = ['-r', '-m', [own, ...macs].join(','), String(shelf), String(slot), target, file];
    const [command, words] = namespace.words('vblade', args);
    child = spawn(command, words, { stdio: ['ignore', 'pipe', 'pipe'] });
    const end = ended(child);
    await serving(child, end, file);
    await configure(namespace, port, options);
    await namespace.run('ip', 'link', 'set', port, 'master', bridge);
    void end.then((why) => {
      if (!isAsked) onEnd?.(why);
    });
    return { config: aoeConfig(options), close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function macOf(namespace: Namespace, name: string): Promise<string> {
  const mac = /link\/ether ([0-9a-f:]{17})/.exec(await namespace.run('ip', 'link', 'show', 'dev', name))?.[1];
  if (mac === undefined) throw new Error(`${name} has no MAC address`);
  return mac;
}

async function configure(namespace: Namespace, port: string, options: AoeExportOptions): Promise<void> {
  const { shelf, slot } = options;
  const config = aoeConfig(options);
  const address = [String(shelf), String(slot), port];
  await namespace.run('aoecfg', '-t', '2', '-c', 'fset', '-s', config, ...address);
  const found = (await namespace.run('aoecfg', '-t', '2', ...address)).trim();
  if (found !== config) throw new Error(`the target's config string reads ${JSON.stringify(found.slice(0, 200))}`);
}
