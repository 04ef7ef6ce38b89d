/**
 * The benchmark (`npm run bench`): what the operator costs when the machines cost nothing. A grown TSUBAME2 from its start to all
 * nodes Available, then from one commit to so many BareMetal nodes and, from the next commit, back to Available.
 *
 * Invariants:
 * 1. Nothing of the product is replaced: real TLS, git, durable API server, the operator's own program. Only machines are simulated.
 * 2. What was measured is shown and written even when the run cannot be finished, with the reason, and the exit code is 1 then.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { Command, InvalidArgumentError } from 'commander';
import { allocationManifest, tenant } from './hall.ts';
import { byProcess, medians, type Result, type Step, table } from './report.ts';
import { Site } from './site.ts';
import { difference, readWrites, sum, type Writes } from './writes.ts';

interface Flags {
  readonly racks: number;
  readonly nodes: number;
  readonly counts?: readonly number[];
  readonly repeats: number;
  readonly patience: number;
  readonly out: string;
  readonly profile?: string;
}

/** Steps with more nodes than this are not repeated: they take minutes. */
const mostRepeated = 1_000;
const mebibyte = 2 ** 20;
const results = fileURLToPath(new URL('./results/latest.json', import.meta.url));

const say = (text: string): void => void process.stderr.write(`${text}\n`);
const pause = (ms: number): Promise<void> => new Promise((wake) => setTimeout(wake, ms));
const now = (): number => performance.now() / 1000;

function whole(text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1 && value <= 100_000) return value;
  throw new InvalidArgumentError('It must be a whole number from 1 to 100000.');
}

class Bench {
  readonly #site: Site;
  readonly #flags: Flags;
  readonly #total: number;
  readonly steps: Step[] = [];

  constructor(site: Site, flags: Flags) {
    this.#site = site;
    this.#flags = flags;
    this.#total = flags.racks * flags.nodes;
  }

  async run(): Promise<void> {
    const { repeats, counts = defaultCounts(this.#total) } = this.#flags;
    say('preparing keys, agents and the repository');
    await this.#site.prepare();
    this.steps.push(await this.#enrol());
    for (const count of counts) {
      const done: Step[] = [];
      for (let repeat = 0; repeat < (count > mostRepeated ? 1 : repeats); repeat++)
        done.push(await this.#tenancy(count, repeat));
      this.steps.push(medians(done));
    }
  }

  /** From nothing but listening agents and a repository to a site that is ready to be used. */
  async #enrol(): Promise<Step> {
    const name = `start, ${this.#total} nodes`;
    const before = byProcess(() => 0);
    before.agents = cpu((await this.#site.usage()).agents);
    const startedAt = now();
    await this.#site.start();
    await this.#reach(name, 'Available', this.#total);
    const seconds = { Available: now() - startedAt };
    return this.#measured(name, this.#total, seconds, {}, before);
  }

  async #tenancy(count: number, repeat: number): Promise<Step> {
    const name = `${count} nodes`;
    const writes = await this.#quietWrites();
    const usage = await this.#site.usage();
    const file = `${tenant}-${count}-${repeat}.yaml`;
    const committedAt = now();
    await this.#site.commit(new Map([[file, allocationManifest(`bench-${count}-${repeat}`, count)]]));
    await this.#reach(name, 'BareMetal', count);
    const there = now() - committedAt;
    await this.#quietWrites();
    const removedAt = now();
    await this.#site.commit(new Map([[file, undefined]]));
    await this.#reach(name, 'Available', this.#total);
    const seconds = { BareMetal: there, Available: now() - removedAt };
    return this.#measured(
      name,
      count,
      seconds,
      writes,
      byProcess((each) => cpu(usage[each])),
    );
  }

  async #measured(
    name: string,
    nodes: number,
    seconds: Record<string, number>,
    before: Writes,
    cpuBefore: Record<'server' | 'operator' | 'agents', number>,
  ): Promise<Step> {
    const writes = difference(await this.#quietWrites(), before);
    const usage = await this.#site.usage();
    const costs = byProcess((each) => ({
      cpuSeconds: cpu(usage[each]) - cpuBefore[each],
      peakMiB: usage[each].peakBytes / mebibyte,
    }));
    const nodeWritesPerNode = sum(writes, 'PhysicalNode') / nodes;
    const step = {
      name,
      nodes,
      repeats: 1,
      seconds,
      nodeWritesPerNode,
      writesPerNode: sum(writes) / nodes,
      writes,
      costs,
    };
    say(JSON.stringify(step));
    return step;
  }

  /** The writes once a second has passed without another: what follows a state's change belongs to it too. */
  async #quietWrites(): Promise<Writes> {
    const until = now() + this.#flags.patience;
    let writes = readWrites(await this.#site.metrics());
    while (now() < until) {
      await pause(1_000);
      const later = readWrites(await this.#site.metrics());
      if (sum(difference(later, writes)) === 0) break;
      writes = later;
    }
    return writes;
  }

  async #reach(name: string, state: string, count: number): Promise<void> {
    const { census, broken } = this.#site;
    const { patience } = this.#flags;
    const began = now();
    const telling = setInterval(() => say(`${name}: ${Math.round(now() - began)} s: ${census.describe()}`), 10_000);
    let late: NodeJS.Timeout | undefined;
    const tooLate = new Promise<never>((_resolve, reject) => {
      const why = (): string =>
        `${name}: not ${count} ${state} within ${patience} s (--patience): ${census.describe()}`;
      late = setTimeout(() => reject(new Error(why())), patience * 1000);
    });
    try {
      await Promise.race([census.reach(state, count), broken, tooLate]);
    } finally {
      clearInterval(telling);
      clearTimeout(late);
    }
  }
}

function cpu({ userSeconds, systemSeconds }: { userSeconds: number; systemSeconds: number }): number {
  return userSeconds + systemSeconds;
}

/** One, a rack, a tenth and all. */
function defaultCounts(total: number): number[] {
  return [...new Set([1, 102, Math.floor(total / 10), total])].filter((count) => count >= 1 && count <= total);
}

async function main(flags: Flags): Promise<void> {
  const { racks, nodes, out, profile } = flags;
  const tooMany = flags.counts?.find((count) => count > racks * nodes);
  if (tooMany !== undefined)
    throw new Error(`--counts: ${tooMany} is more than the ${racks * nodes} nodes that there are`);
  const directory = mkdtempSync(join(tmpdir(), 'bitvisor-bench-'));
  const site = new Site({ racks, nodesPerRack: nodes, directory, profile: profile && resolve(profile) });
  const bench = new Bench(site, flags);
  let failure: string | undefined;
  const interrupt = (): void => site.interrupt();
  process.once('SIGINT', interrupt);
  process.once('SIGTERM', interrupt);
  try {
    await Promise.race([bench.run(), site.broken]);
  } catch (error) {
    failure = error instanceof Error ? error.message : String(error);
  } finally {
    await site.close();
  }
  const [processor] = cpus();
  const result: Result = {
    racks,
    nodesPerRack: nodes,
    node: process.version,
    cpus: processor?.model ?? 'unknown',
    cores: cpus().length,
    steps: bench.steps,
    ...(failure === undefined ? {} : { failure }),
  };
  mkdirSync(dirname(resolve(out)), { recursive: true });
  writeFileSync(out, `${JSON.stringify(result, undefined, 2)}\n`);
  process.stdout.write(table(result));
  if (failure === undefined) rmSync(directory, { recursive: true, force: true });
  else {
    say(`error: ${failure}; the logs are in ${directory}`);
    process.exitCode = 1;
  }
}

await new Command('bench')
  .description('Measures the operator with machines that need no time: seconds, API writes, CPU and memory.')
  .option('--racks <n>', 'racks, one agent each', whole, 864)
  .option('--nodes <n>', 'nodes of a rack', whole, 102)
  .option('--counts <n,...>', 'sizes of the allocations (default: 1, 102, a tenth and all)', (text) =>
    text.split(',').map(whole),
  )
  .option('--repeats <n>', `of allocations with at most ${mostRepeated} nodes; medians are shown`, whole, 3)
  .option('--patience <seconds>', 'given to each half of a step', whole, 7_200)
  .option('--profile <dir>', 'write CPU profiles of the three processes there')
  .option('--out <file>', 'where the result is written as JSON', results)
  .action(main)
  .parseAsync();
