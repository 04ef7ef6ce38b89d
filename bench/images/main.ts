/**
 * What serving images costs (`npm run bench:images`): throughput and CPU for each GiB, beside nbdkit's in the same run, and what eight nodes
 * that are reimaged at once cost the origin.
 *
 * Invariants:
 * 1. Both servers serve the same file over the same kind of socket to the same client, libnbd's nbdcopy; sides alternate, medians are shown.
 * 2. Nothing of the product is replaced. The image holds no zeros, which would cost nothing.
 */
import { type ChildProcess, execFile, fork, spawn } from 'node:child_process';
import { createCipheriv } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { cpus, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Command } from 'commander';
import { FileOrigin } from '../../agent/image/origin.ts';
import { packImage } from '../../agent/image/pack.ts';
import { median } from '../report.ts';
import type { ServerSettings } from './server.ts';

const run = promisify(execFile);
const mib = 1_048_576;
const gib = 1024 * mib;
const nodes = 8;
/** Of Linux on every architecture that Node runs on. */
const ticksPerSecond = 100;

interface Sample {
  readonly seconds: number;
  readonly cpuSeconds: number;
}

interface Row {
  readonly name: string;
  readonly samples: Sample[];
  /** Bytes of one sample. */
  readonly bytes: number;
}

function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

async function writeImage(path: string, bytes: number): Promise<void> {
  const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16, 1), Buffer.alloc(16));
  const zeros = Buffer.alloc(mib);
  const handle = await open(path, 'w');
  for (let at = 0; at < bytes; at += mib) await handle.write(cipher.update(zeros));
  await handle.sync();
  await handle.close();
}

/** An origin as a web server is one: ranges of two files, and what it sent. */
async function startOrigin(directory: string): Promise<{ url: string; sent: () => number; server: Server }> {
  let sent = 0;
  const server = createServer(async (request, response) => {
    const origin = new FileOrigin(join(directory, decodeURIComponent((request.url ?? '/').slice(1))));
    const signal = new AbortController().signal;
    const { sizeBytes } = await origin.probe(signal);
    const [, first = '0', last = '0'] = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '') ?? [];
    const length = Math.min(Number(last), sizeBytes - 1) - Number(first) + 1;
    response.writeHead(206, {
      'content-length': length,
      'content-range': `bytes ${first}-${Number(first) + length - 1}/${sizeBytes}`,
    });
    for await (const chunk of origin.read(Number(first), length, signal)) {
      sent += chunk.length;
      if (!response.write(chunk)) await new Promise((resolve) => response.once('drain', resolve));
    }
    response.end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, sent: () => sent, server };
}

async function startOurs(settings: ServerSettings): Promise<ChildProcess> {
  const child = fork(fileURLToPath(new URL('./server.ts', import.meta.url)), [JSON.stringify(settings)]);
  await new Promise<void>((resolve, reject) => {
    child.once('message', () => resolve());
    child.once('exit', (code) => reject(new Error(`the server ended with ${code}`)));
  });
  return child;
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode === null) await new Promise((resolve) => child.once('exit', resolve));
}

async function startNbdkit(socketPath: string, file: string): Promise<ChildProcess> {
  const child = spawn('nbdkit', ['-f', '-r', '-U', socketPath, 'file', file], { stdio: 'inherit' });
  for (let turn = 0; turn < 500; turn++) {
    const isUp = await run('nbdinfo', ['--size', `nbd+unix:///?socket=${socketPath}`]).then(
      () => true,
      () => false,
    );
    if (isUp) return child;
  }
  throw new Error('nbdkit did not come up');
}

async function measure(row: Row, pid: number, uris: readonly string[]): Promise<void> {
  const before = cpuSeconds(pid);
  const startedAt = performance.now();
  await Promise.all(uris.map((uri) => run('nbdcopy', ['--connections=4', '--requests=16', uri, 'null:'])));
  row.samples.push({ seconds: (performance.now() - startedAt) / 1000, cpuSeconds: cpuSeconds(pid) - before });
}

const say = (text: string): void => void process.stderr.write(`${text}\n`);

function table(rows: readonly Row[], sizeBytes: number): string[] {
  const [first] = rows;
  const cost = ({ samples, bytes }: Row): { rate: number; cpu: number } => ({
    rate: bytes / mib / median(samples.map(({ seconds }) => seconds)),
    cpu: median(samples.map((sample) => sample.cpuSeconds)) / (bytes / gib),
  });
  const base = first === undefined ? { rate: 1, cpu: 1 } : cost(first);
  return [
    `image of ${sizeBytes / mib} MiB, ${first?.samples.length ?? 0} repeats`,
    `${''.padEnd(36)}${'MiB/s'.padStart(8)}${'of nbdkit'.padStart(11)}${'CPU s/GiB'.padStart(11)}${'of nbdkit'.padStart(11)}`,
    ...rows.map((row) => {
      const { rate, cpu } = cost(row);
      const cells = [
        rate.toFixed(0).padStart(8),
        (rate / base.rate).toFixed(2).padStart(11),
        cpu.toFixed(2).padStart(11),
      ];
      return `${row.name.padEnd(36)}${cells.join('')}${(cpu / base.cpu).toFixed(2).padStart(11)}`;
    }),
  ];
}

async function bench(scratch: string, sizeBytes: number, repeats: number): Promise<object> {
  const file = join(scratch, 'image.raw');
  await writeImage(file, sizeBytes);
  const { digest } = await packImage(file, { signal: new AbortController().signal });
  const origin = await startOrigin(scratch);
  const row = (name: string, bytes = sizeBytes): Row => ({ name, samples: [], bytes });
  const rows = {
    nbdkit: row('nbdkit, file plug-in'),
    memory: row('cache, from memory'),
    disk: row('cache, from disk, verified'),
    cold: row('cache, from an origin over HTTP'),
    eight: row('cache, 8 clients at once, empty', nodes * sizeBytes),
  };
  const origins: number[] = [];
  const start = (name: string, memoryBytes: number, exports: readonly string[]): Promise<ChildProcess> =>
    startOurs({
      directory: join(scratch, name),
      socketPath: join(scratch, `${name}.sock`),
      memoryBytes,
      url: `${origin.url}/image.raw`,
      sha256: digest,
      sizeBytes,
      exports,
      policyDirectory: scratch,
    });
  const uri = (name: string, exported: string): string =>
    `nbd+unix:///${exported}?socket=${join(scratch, `${name}.sock`)}`;
  const end = async (child: ChildProcess): Promise<void> => {
    child.send('end');
    await ended(child);
  };
  const nbdkit = await startNbdkit(join(scratch, 'nbdkit.sock'), file);
  for (let repeat = 0; repeat < repeats; repeat++) {
    say(`repeat ${repeat + 1} of ${repeats}`);
    await measure(rows.nbdkit, nbdkit.pid ?? 0, [uri('nbdkit', '')]);
    const name = `cache${repeat}`;
    const cold = await start(name, 2 * sizeBytes + 64 * mib, ['n0']);
    await measure(rows.cold, cold.pid ?? 0, [uri(name, 'n0')]);
    await measure(rows.memory, cold.pid ?? 0, [uri(name, 'n0')]);
    await end(cold);
    const disk = await start(name, 32 * mib, ['n0']);
    await measure(rows.disk, disk.pid ?? 0, [uri(name, 'n0')]);
    await end(disk);
    rmSync(join(scratch, name), { recursive: true });
    const before = origin.sent();
    const all = Array.from({ length: nodes }, (_, node) => `n${node}`);
    const eight = await start(name, 64 * mib, all);
    await measure(
      rows.eight,
      eight.pid ?? 0,
      all.map((node) => uri(name, node)),
    );
    await end(eight);
    rmSync(join(scratch, name), { recursive: true });
    origins.push((origin.sent() - before) / sizeBytes);
  }
  nbdkit.kill();
  origin.server.close();
  origin.server.closeAllConnections();
  say(
    [
      '',
      ...table(Object.values(rows), sizeBytes),
      `origin traffic for ${nodes} nodes at once: ${median(origins).toFixed(3)} images`,
    ].join('\n'),
  );
  return {
    cpus: cpus()[0]?.model,
    cores: cpus().length,
    sizeBytes,
    rows: Object.values(rows),
    originImagesForEight: median(origins),
  };
}

const results = fileURLToPath(new URL('../results/images.json', import.meta.url));
const command = new Command('bench:images')
  .description('Measures the image server beside nbdkit. Needs nbdkit and libnbd-bin.')
  .option('--size <MiB>', 'of the image', Number, 1024)
  .option('--repeats <n>', 'of which medians are shown', Number, 5)
  .option('--out <file>', 'for the numbers', results)
  .parse();
const { size, repeats, out } = command.opts<{ size: number; repeats: number; out: string }>();
const scratch = mkdtempSync(join(tmpdir(), 'bench-images-'));
try {
  const result = await bench(scratch, size * mib, repeats);
  mkdirSync(dirname(out), { recursive: true });
  writeFileSync(out, `${JSON.stringify(result, undefined, 2)}\n`);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
