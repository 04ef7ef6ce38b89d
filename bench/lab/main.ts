/**
 * The benchmark of the lab (`npm run bench:lab`): real guests on machines that QEMU plays, streamed, copied, devirtualized.
 *
 * Invariants:
 * 1. Every number is a median, and both sides of a ratio come from one run.
 * 2. What was measured is shown and written even when a later part fails; the exit code is 1 then.
 * The ratio of copying to streaming is arithmetic of image size, rate and boot: it says nothing of other hardware.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { Command, InvalidArgumentError, Option } from 'commander';
import { buildLabImages, padImage } from '../../agent/drivers/qemu/images/build.ts';
import { isolation, type Line, leaving, originTraffic, readsWhileCopying, sooner } from './measures.ts';

const parts = ['sooner1', 'sooner4', 'reads', 'leaving', 'origin', 'isolation'] as const;
type Part = (typeof parts)[number];

interface Flags {
  readonly runs: number;
  readonly only?: readonly Part[];
  readonly rate: number;
  readonly images: string;
  readonly out: string;
}

const gibi = 2 ** 30;
const results = fileURLToPath(new URL('../results/lab.json', import.meta.url));

function whole(text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1 && value <= 1_000_000_000) return value;
  throw new InvalidArgumentError('It must be a whole number from 1 on.');
}

function table(lines: readonly Line[]): string {
  const rows = lines.map(({ what, value, unit, goal, isAtMost, parts = {} }) => {
    const wanted = goal === undefined ? 'reported' : `${isAtMost ? 'at most' : 'at least'} ${goal} ${unit}`;
    const isReached = goal === undefined ? '' : (isAtMost ? value <= goal : value >= goal) ? 'reached' : 'MISSED';
    const details = Object.entries(parts).map(([name, part]) => `${name} ${part.toFixed(2)}`);
    return [what, `${value.toFixed(2)} ${unit}`, wanted, isReached, details.join(', ')];
  });
  const head = ['what', 'measured', 'to reach', '', 'made of'];
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => (row[column] ?? '').length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  return [line(head), `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`, ...rows.map(line)].join('\n');
}

async function measure(flags: Flags, lines: Line[]): Promise<void> {
  const { runs, only = parts, rate, images: imageDirectory } = flags;
  const { alpha } = await buildLabImages(imageDirectory);
  const shaped = { imageDirectory, rateBytes: rate };
  const free = { imageDirectory };
  const say = (what: string): void => void process.stderr.write(`${what} ...\n`);
  for (const part of parts.filter((name) => only.includes(name))) {
    say(part);
    if (part === 'sooner1') lines.push(...(await sooner(await padImage(alpha, gibi), 4, runs, shaped)));
    if (part === 'sooner4') lines.push(...(await sooner(await padImage(alpha, 4 * gibi), 10, runs, shaped)));
    if (part === 'reads') {
      const image = await padImage(alpha, 2 * gibi);
      for (const yielding of ['Fair', 'Strict', 'None'] as const)
        lines.push(await readsWhileCopying(image, runs, yielding, shaped));
    }
    if (part === 'leaving') lines.push(...(await leaving(alpha, runs, free)));
    if (part === 'origin') lines.push(await originTraffic(alpha, 8, free));
    if (part === 'isolation') lines.push(await isolation(runs, free));
  }
}

const flags = new Command('bench:lab')
  .description('Measures machines that QEMU plays. Needs root and what docs/lab.md lists.')
  .option('--runs <n>', 'of which the median counts', whole, 5)
  .addOption(new Option('--only <part...>', 'measure these alone').choices(parts))
  .option('--rate <bytes>', "a second, of the image server's network", whole, 117_500_000)
  .option('--images <dir>', 'where images are built, or were', join(tmpdir(), 'bitvisor-lab-images'))
  .option('--out <file>', 'the result as JSON', results)
  .parse()
  .opts<Flags>();

const lines: Line[] = [];
let failure: string | undefined;
try {
  await measure({ ...flags, images: resolve(flags.images) }, lines);
} catch (error) {
  failure = error instanceof Error ? (error.stack ?? error.message) : String(error);
}
const host = { node: process.version, cpus: cpus()[0]?.model ?? '', cores: cpus().length, runs: flags.runs };
mkdirSync(dirname(flags.out), { recursive: true });
writeFileSync(
  flags.out,
  `${JSON.stringify({ ...host, lines, ...(failure === undefined ? {} : { failure }) }, undefined, 2)}\n`,
);
process.stdout.write(`${table(lines)}\n`);
if (failure !== undefined) {
  process.stderr.write(`It did not run to its end: ${failure}\n`);
  process.exitCode = 1;
}
