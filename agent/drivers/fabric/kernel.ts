/**
 * The kernel's side of the bridge fabric: nft and ip, in a network namespace, each call bounded in time.
 *
 * Invariant: when a call has ended, its process has; nothing that it asked for can take effect afterwards.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Clock } from '../../../controller/runtime/clock.ts';

/** A call that takes longer is ended. */
const callLimitMs = 10_000;
/** A listing of a rack is some 100 kB. */
const mostOutputBytes = 16 * 2 ** 20;
/** Of what a failed program said. */
const mostErrorCharacters = 400;

export interface LinkState {
  /** Administratively. */
  readonly up: boolean;
  /** Whether the bridge learns addresses from the port. */
  readonly learning: boolean;
}

/** Interfaces that exist, by name. */
export type Links = ReadonlyMap<string, LinkState>;

export interface WantedLink {
  readonly ifname: string;
  readonly up: boolean;
  /** The address that the bridge is to know behind the port. */
  readonly address: string;
}

export interface Kernel {
  /** @throws Error with what nft said: then nothing of the script was done, unless it was ended for taking too long */
  applyRules(script: string): Promise<void>;
  /** The JSON listing of the table, or undefined when there is none. */
  listRules(table: string): Promise<string | undefined>;
  links(): Promise<Links>;
  /** Sets interfaces up or down, and has the bridge learn nothing from them; those that do not exist are passed over. */
  setLinks(wanted: readonly WantedLink[]): Promise<void>;
  /** Calls `onEvent` soon after any other process changed any rule, until closed. */
  watch(onEvent: () => void): { close(): void };
}

export interface KernelOptions {
  /** Name of the network namespace; absent: that of this process. */
  readonly netns?: string;
  readonly clock: Clock;
}

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface Call {
  readonly program: string;
  readonly args: readonly string[];
  readonly input?: string;
  readonly onStart?: (pid: number) => void;
}

function call(clock: Clock, { program, args, input = '', onStart }: Call): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: 'pipe' });
    if (child.pid !== undefined) onStart?.(child.pid);
    const output = { stdout: '', stderr: '' };
    const cancel = clock.setTimer(callLimitMs, () => child.kill('SIGKILL'));
    for (const stream of ['stdout', 'stderr'] as const) {
      child[stream].setEncoding('utf8').on('data', (text: string) => {
        output[stream] += text;
        if (output[stream].length > mostOutputBytes) child.kill('SIGKILL');
      });
    }
    child.on('error', (error) => {
      cancel();
      reject(new Error(`${program} could not be run: ${error.message}`));
    });
    child.on('close', (code) => {
      cancel();
      resolve({ code, ...output });
    });
    // A program that ended early closes its end; why it did is in its exit code.
    child.stdin.on('error', () => {});
    child.stdin.end(input);
  });
}

function complaint(what: string, { code, stderr }: Ended): Error {
  const said = stderr.split('\n')[0]?.slice(0, mostErrorCharacters) ?? '';
  return new Error(code === null ? `${what} was ended after ${callLimitMs / 1000} s` : `${what} failed: ${said}`);
}

interface LinkRow {
  readonly ifname?: string;
  readonly flags?: readonly string[];
  readonly linkinfo?: { readonly info_slave_kind?: string; readonly info_slave_data?: { readonly learning?: boolean } };
}

function linkState({ flags = [], linkinfo }: LinkRow): LinkState {
  const inBridge = linkinfo?.info_slave_kind === 'bridge';
  return { up: flags.includes('UP'), learning: inBridge && linkinfo?.info_slave_data?.learning !== false };
}

/** nft's monitor names the process behind each change. */
const generationPattern = /^# new generation \d+ by process (\d+)/;
/** Own processes whose changes may still come up in the monitor. */
const rememberedPids = 64;

export function linuxKernel({ netns, clock }: KernelOptions): Kernel {
  const ownPids: number[] = [];
  const nft = (...args: string[]): { program: string; args: string[] } =>
    netns === undefined ? { program: 'nft', args } : { program: 'ip', args: ['netns', 'exec', netns, 'nft', ...args] };
  const inNetns = netns === undefined ? [] : ['-netns', netns];
  const onStart = (pid: number): void => {
    ownPids.push(pid);
    if (ownPids.length > rememberedPids) ownPids.shift();
  };
  return {
    async applyRules(script) {
      const ended = await call(clock, { ...nft('-f', '-'), input: script, onStart });
      if (ended.code !== 0) throw complaint('nft', ended);
    },
    async listRules(table) {
      const ended = await call(clock, nft('-j', 'list', 'table', 'bridge', table));
      if (ended.code === 0) return ended.stdout;
      if (ended.stderr.includes('No such file or directory')) return undefined;
      throw complaint('nft', ended);
    },
    async links() {
      const ended = await call(clock, { program: 'ip', args: [...inNetns, '-details', '-json', 'link', 'show'] });
      if (ended.code !== 0) throw complaint('ip link', ended);
      const rows = JSON.parse(ended.stdout === '' ? '[]' : ended.stdout) as LinkRow[];
      return new Map(rows.map((row) => [row.ifname ?? '', linkState(row)]));
    },
    async setLinks(wanted) {
      // With -force an interface that is not there does not keep the others from being set.
      const args = [...inNetns, '-force', '-batch', '-'];
      const links = wanted.flatMap(({ ifname, up }) => [
        `link set dev ${ifname} type bridge_slave learning off\n`,
        `link set dev ${ifname} ${up ? 'up' : 'down'}\n`,
      ]);
      const linked = await call(clock, { program: 'ip', args, input: links.join('') });
      if (linked.code === null) throw complaint('ip link', linked);
      const addresses = wanted.map(({ ifname, address }) => `fdb replace ${address} dev ${ifname} master static\n`);
      const known = await call(clock, { program: 'bridge', args, input: addresses.join('') });
      if (known.code === null) throw complaint('bridge fdb', known);
    },
    watch: (onEvent) =>
      watchRules(clock, nft('monitor'), (pid) => {
        if (pid === undefined || !ownPids.includes(pid)) onEvent();
      }),
  };
}

/**
 * @param onGeneration called with the process behind a change, or with none when changes may have been missed: nft's monitor ends
 *   at once on some changes, a flushed ruleset among them
 */
function watchRules(
  clock: Clock,
  { program, args }: { program: string; args: readonly string[] },
  onGeneration: (pid: number | undefined) => void,
): { close(): void } {
  let child: ChildProcess | undefined;
  let closed = false;
  let failures = 0;
  let cancelRestart = (): void => {};
  const start = (): void => {
    const startedAt = clock.monotonic();
    child = spawn(program, args, { stdio: ['ignore', 'pipe', 'ignore'] });
    if (child.stdout !== null) {
      createInterface({ input: child.stdout }).on('line', (line) => {
        if (!line.startsWith('# ')) return;
        const pid = generationPattern.exec(line)?.[1];
        onGeneration(pid === undefined ? undefined : Number(pid));
      });
    }
    child.on('error', () => {});
    child.on('close', () => {
      if (closed) return;
      onGeneration(undefined);
      failures = clock.monotonic() - startedAt > callLimitMs ? 1 : failures + 1;
      cancelRestart = clock.setTimer(Math.min(callLimitMs, 50 * 2 ** failures), start);
    });
  };
  start();
  return {
    close() {
      closed = true;
      cancelRestart();
      child?.kill('SIGKILL');
    },
  };
}
