/**
 * Walks through the Dockerfile without a builder: each stage becomes a directory, COPY copies, `npm run` runs, and the program that
 * comes out is started with `--help`. Not walked: `npm ci` (the packages of this work tree stand in) and what the base image holds.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Instruction, parseDockerfile, type Stage } from './dockerfile.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const stages = parseDockerfile(readFileSync(join(root, 'Dockerfile'), 'utf8'));
const last = stages.at(-1);
const of = (stage: Stage | undefined, name: string): Instruction[] =>
  (stage?.instructions ?? []).filter((instruction) => instruction.name === name);

const scratch = mkdtempSync(join(tmpdir(), 'bitvisor-image-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

/** What the builder would be sent: the context is closed and opens entry by entry. */
const opened = readFileSync(join(root, '.dockerignore'), 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('!'))
  .map((line) => line.slice(1));

test('there is a stage that builds and one that runs, both on the Node of package.json', () => {
  assert.equal(stages.length, 2);
  const { engines } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { engines: { node: string } };
  const major = /\d+/.exec(engines.node)?.[0];
  for (const { image } of stages)
    assert.match(image, new RegExp(`^node:${major}-[a-z]+-slim$`), 'pin the major version by tag');
});

test('every source of COPY exists and is let through by .dockerignore', () => {
  assert.match(readFileSync(join(root, '.dockerignore'), 'utf8'), /^\*$/m, '.dockerignore must start from nothing');
  const copies = stages.flatMap((stage) => of(stage, 'COPY')).filter(({ flags }) => flags.from === undefined);
  const sources = copies.flatMap(({ words }) => words.slice(0, -1));
  for (const source of sources) {
    assert.ok(existsSync(join(root, source)), `COPY ${source}: no such file`);
    assert.ok(opened.includes(source), `COPY ${source}: add "!${source}" to .dockerignore`);
  }
  assert.deepEqual([...opened].sort(), [...sources].sort(), '.dockerignore lets through what nothing copies');
});

test('the last stage installs nothing, needs no shell and is not root', () => {
  assert.deepEqual(of(last, 'RUN'), []);
  const [user] = of(last, 'USER');
  assert.match(
    user?.words[0] ?? '',
    /^[1-9]\d*:[1-9]\d*$/,
    'USER must be numeric: Kubernetes checks runAsNonRoot by number',
  );
  for (const instruction of [...of(last, 'ENTRYPOINT'), ...of(last, 'CMD')]) {
    assert.ok(instruction.isExecForm, `Dockerfile:${instruction.line}: use the exec form ["...", "..."]`);
  }
});

/** Directory that stands for a stage's file system. */
const layer = (stage: Stage): string => join(scratch, String(stages.indexOf(stage)));

function copy(instruction: Instruction, stage: Stage, workdir: string): void {
  const target = instruction.words.at(-1) ?? '';
  const source = stages.find(({ name }) => name !== undefined && name === instruction.flags.from);
  for (const word of instruction.words.slice(0, -1)) {
    const from = source === undefined ? join(root, word) : join(layer(source), word);
    const to = join(layer(stage), resolve(workdir, target));
    assert.ok(existsSync(from), `Dockerfile:${instruction.line}: ${word} is not there`);
    const intoDirectory = target.endsWith('/') && source === undefined;
    cpSync(from, intoDirectory ? join(to, word) : to, { recursive: true });
  }
}

function run(instruction: Instruction, directory: string): void {
  const command = instruction.words.join(' ');
  if (command.startsWith('npm ci')) {
    assert.ok(existsSync(join(directory, 'package-lock.json')), 'npm ci needs the lockfile');
    symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'));
    return;
  }
  assert.match(
    command,
    /^npm run [a-z:]+$/,
    `Dockerfile:${instruction.line}: this walk knows "npm ci" and "npm run" only`,
  );
  execFileSync('npm', ['run', '--silent', instruction.words[2] ?? ''], { cwd: directory, stdio: 'pipe' });
}

function walk(stage: Stage): string {
  let workdir = '/';
  for (const instruction of stage.instructions) {
    if (instruction.name === 'WORKDIR') {
      workdir = resolve(workdir, instruction.words[0] ?? '');
      mkdirSync(join(layer(stage), workdir), { recursive: true });
    }
    if (instruction.name === 'COPY') copy(instruction, stage, workdir);
    if (instruction.name === 'RUN') run(instruction, join(layer(stage), workdir));
  }
  return layer(stage);
}

test('the steps make a program that teaches its use', (t) => {
  if (!existsSync(join(root, 'controller/main.ts'))) return t.skip('controller/main.ts does not exist yet');
  const image = stages.map(walk).at(-1) ?? '';
  const [program, ...words] = of(last, 'ENTRYPOINT')[0]?.words ?? [];
  assert.equal(program, 'node');
  const main = words.map((word) => (word.startsWith('/') ? join(image, word) : word));
  const help = execFileSync(process.execPath, [...main, ...(of(last, 'CMD')[0]?.words ?? [])], {
    encoding: 'utf8',
    cwd: dirname(main.at(-1) ?? image),
    env: { NODE_ENV: 'production' },
  });
  assert.match(help, /bitvisor-operator/);
  assert.match(help, /controller/);
});
