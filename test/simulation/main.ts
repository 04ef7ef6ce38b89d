/**
 * `npm run simulate`: the whole operator under simulated faults, seed by seed; a seed that fails replays exactly.
 */
import { writeFileSync } from 'node:fs';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { allFamilies } from './faults/families.ts';
import { runJobs } from './jobs.ts';
import { runSeed } from './run.ts';
import { Summary } from './summary.ts';
import { patienceMs, startWatchdog } from './watchdog.ts';

const help = `Usage: npm run simulate -- [options]

Runs the operator, its agents and a simulated machine room under faults that are drawn from a seed, and checks the rules of the design.

  --seed N          one seed
  --seeds A..B      these seeds, both included (default 1..20)
  --minutes M       seeds from A (or 1) on, until M minutes are over
  --jobs N          on so many processes at once (default 1)
  --faults LIST     only these families or kinds, by commas: ${allFamilies.map(({ name }) => name).join(', ')}, or family.kind
  --verbose         every line of the trace
  --out FILE        the summary as JSON
  --help            this text

Exit code 1: a rule was broken; the seed and the command that replays it are printed. A run that hangs is ended by SIGKILL after a
minute, with its seed and where it was.
`;

interface Wanted {
  readonly first: number;
  readonly last: number;
  readonly minutes: number | undefined;
  readonly jobs: number;
  readonly faults: readonly string[];
  readonly verbose: boolean;
  readonly out: string | undefined;
}

function wanted(): Wanted | string {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string' },
      seeds: { type: 'string' },
      minutes: { type: 'string' },
      jobs: { type: 'string', default: '1' },
      faults: { type: 'string' },
      verbose: { type: 'boolean' },
      out: { type: 'string' },
      help: { type: 'boolean' },
    },
  });
  if (values.help) return help;
  const range = values.seed ?? values.seeds ?? (values.minutes === undefined ? '1..20' : '1..');
  const match = /^(\d+)(\.\.(\d*))?$/.exec(range);
  if (match?.[1] === undefined) return `--seed or --seeds: a number, or two with .. between them, and not ${range}\n`;
  const minutes = values.minutes === undefined ? undefined : Number(values.minutes);
  if (minutes !== undefined && !(minutes > 0)) return `--minutes: a number above 0, and not ${values.minutes}\n`;
  const jobs = Number(values.jobs);
  if (!(Number.isInteger(jobs) && jobs >= 1 && jobs <= 64))
    return `--jobs: a number from 1 to 64, and not ${values.jobs}\n`;
  if (jobs > 1 && values.verbose)
    return '--verbose: the traces of several processes cannot be told apart; leave out --jobs\n';
  const first = Number(match[1]);
  const open = match[3] === '' || minutes !== undefined;
  return {
    first,
    last: match[2] === undefined && minutes === undefined ? first : open ? Number.MAX_SAFE_INTEGER : Number(match[3]),
    minutes,
    jobs,
    faults: values.faults === undefined ? [] : values.faults.split(',').filter((name) => name !== ''),
    verbose: values.verbose ?? false,
    out: values.out,
  };
}

function saver(summary: Summary, out: string | undefined): () => void {
  return () => {
    if (out !== undefined) writeFileSync(out, `${JSON.stringify(summary.json(), undefined, 2)}\n`);
  };
}

const deadline = (minutes: number | undefined): number =>
  minutes === undefined ? Number.POSITIVE_INFINITY : Date.now() + minutes * 60_000;

async function simulate({ first, last, minutes, faults, verbose, out }: Wanted): Promise<number> {
  const summary = new Summary(faults);
  const save = saver(summary, out);
  const watchdog = startWatchdog(patienceMs);
  const until = deadline(minutes);
  const print = verbose ? { print: (line: string) => void process.stdout.write(`${line}\n`) } : {};
  for (let seed = first; seed <= last && Date.now() < until; seed++) {
    const before = process.cpuUsage();
    watchdog.begins(seed);
    const result = await runSeed({ seed, faults, ...print });
    const { user, system } = process.cpuUsage(before);
    process.stdout.write(summary.add(result, (user + system) / 1e6));
    save();
  }
  process.stdout.write(summary.text());
  return summary.failed ? 1 : 0;
}

async function simulateBeside({ first, last, minutes, jobs, faults, out }: Wanted): Promise<number> {
  const summary = new Summary(faults);
  const save = saver(summary, out);
  const until = deadline(minutes);
  let seed = first;
  await runJobs({
    jobs,
    faults,
    next: () => (seed <= last && Date.now() < until ? seed++ : undefined),
    done: ({ result, cpuSeconds }) => {
      process.stdout.write(summary.add(result, cpuSeconds));
      save();
    },
    died: (of, how) => {
      process.stdout.write(summary.lost(of, how));
      save();
    },
  });
  process.stdout.write(summary.text());
  return summary.failed ? 1 : 0;
}

const asked = wanted();
if (typeof asked === 'string') {
  process.stdout.write(asked);
  process.exitCode = asked === help ? 0 : 2;
} else process.exitCode = await (asked.jobs > 1 ? simulateBeside : simulate)(asked);
