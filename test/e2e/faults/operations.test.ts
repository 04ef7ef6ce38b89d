/** Every command of docs/operations.md, run as it stands there by the real kubectl, where it is to help. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { computeEnvironments, nodeAllocations } from '../../../controller/api/meta.ts';
import type { PhysicalNode } from '../../../controller/api/types.generated.ts';
import { counterpart } from '../../support/counterpart.ts';
import { toolPath } from '../../support/kubectl.ts';
import { Plant } from './plant.ts';

const tool = toolPath('kubectl');
const options = counterpart('kubectl', 'path' in tool, 'missing' in tool ? tool.missing : '');
const page = readFileSync(fileURLToPath(new URL('../../../docs/operations.md', import.meta.url)), 'utf8');

function commandsOf(markdown: string): string[] {
  const blocks = [...markdown.matchAll(/^```sh\n([\s\S]*?)^```/gm)].flatMap(([, text = '']) => text.trim().split('\n'));
  const inline = [...markdown.replaceAll(/^```sh\n[\s\S]*?^```/gm, '').matchAll(/`(kubectl [^`]+)`/g)].map(
    ([, text = '']) => text,
  );
  return [...blocks, ...inline].filter((text) => text.startsWith('kubectl '));
}

const commands = new Set(commandsOf(page));
const unused = new Set(commands);
let plant: Plant;

/** Runs the one command of the page that contains all of these words, with what a person puts in its place. */
async function run(words: readonly string[], put: Readonly<Record<string, string>> = {}): Promise<string> {
  const found = [...commands].filter((command) => words.every((word) => command.includes(word)));
  const [first] = found.sort((a, b) => a.length - b.length);
  assert.ok(first !== undefined, `the page has no command with ${words.join(', ')}`);
  unused.delete(first);
  let text = first;
  for (const [placeholder, value] of Object.entries(put)) {
    assert.ok(text.includes(placeholder), `${placeholder} in ${first}`);
    text = text.replaceAll(placeholder, value);
  }
  const path = 'path' in tool ? dirname(tool.path) : '';
  const env = {
    PATH: `${path}:${process.env.PATH}`,
    HOME: plant.directory,
    KUBECONFIG: join(plant.apiDir, 'kubeconfig'),
  };
  return new Promise((resolve, reject) => {
    execFile('/bin/sh', ['-c', text], { env, timeout: 60_000 }, (error, stdout, stderr) => {
      if (error) reject(new Error(`${text}\n${stdout}${stderr}`));
      else resolve(stdout);
    });
  });
}

const statusOf = async (name: string): Promise<NonNullable<PhysicalNode['status']>> =>
  (await plant.nodes()).find((node) => node.metadata.name === name)?.status ?? {};
const state = (name: string, wanted: string): Promise<void> =>
  plant.until(`${name} is ${wanted}`, async () => (await statusOf(name)).state === wanted);
/** As a person reads it: what the message says, else the status. */
async function epochOf(name: string): Promise<string> {
  const { message = '', epoch = 0 } = await statusOf(name);
  return `"epoch":${/epoch (\d+)$/.exec(message)?.[1] ?? epoch}`;
}
const decide = async (action: string, name: string): Promise<string> =>
  run([`"action":"${action}","epoch"`], { NAME: name, '"epoch":7': await epochOf(name) });

const edit = async (name: string, patch: object): Promise<unknown> =>
  (await plant.client()).patch(nodeAllocations, { namespace: 'lab', name }, patch, { type: 'merge' });

before(async () => {
  if (options.skip === undefined) plant = await Plant.start({ racks: { p0: 'p0n[0-2]', p1: 'p1n[0-2]' } });
});
after(() => plant?.stop());

test('looking', options, async () => {
  await plant.allocate('job', 2);
  const job = { NS: 'lab', NAME: 'job' };
  await run(['kubectl wait'], job);
  assert.match(await run(['kubectl get nalloc -A']), /lab +job/);
  assert.match(await run(['kubectl describe nalloc'], job), /Scheduled/);
  assert.match(await run(['kubectl get bvagent']), /p1/);
  const [name = ''] = await plant.claimed('job');
  assert.match(await run(['kubectl get pnode NAME'], { NAME: name }), /lab +job/);
});

test('maintenance keeps a free node out, and ends', options, async () => {
  const free = (await plant.nodes()).find(({ status }) => status?.state === 'Available')?.metadata.name ?? '';
  await run(['"maintenance":{'], { NAME: free });
  await state(free, 'Maintenance');
  await run(['"maintenance":null'], { NAME: free });
  await state(free, 'Available');
});

test(
  'a running node whose records are older here is held, and Adopt gives it back to its allocation',
  options,
  async () => {
    await plant.settled('job');
    for (const name of ['one', 'api']) await plant.service(name).end('SIGTERM');
    const backup = plant.path('backup');
    cpSync(plant.apiDir, backup, { recursive: true });
    plant.startApi();
    await plant.serving();
    plant.startOperator('one');
    const before = await plant.claimed('job');
    await edit('job', { spec: { replicas: 3 } });
    await plant.until('a third node', async () => (await plant.claimed('job')).length === 3);
    await plant.settled('job');
    const third = (await plant.claimed('job')).find((name) => !before.includes(name)) ?? '';
    const imaged = plant.counts('imaged');
    await plant.service('one').end('SIGTERM');
    await plant.service('api').end('SIGKILL');
    await plant.forgetClient();
    rmSync(plant.apiDir, { recursive: true });
    cpSync(backup, plant.apiDir, { recursive: true });
    plant.startApi();
    await plant.serving();
    plant.startOperator('one');
    await state(third, 'Orphaned');
    await edit('job', { spec: { replicas: 3, suspend: true } });
    await decide('Adopt', third);
    await plant.settled('job');
    assert.ok((await plant.claimed('job')).includes(third));
    assert.deepEqual(plant.counts('imaged'), imaged);
  },
);

test('an update is rolled by its owner', options, async () => {
  await edit('job', { spec: { suspend: false } });
  const environment = { namespace: 'lab', name: 'rocky' };
  const boot = { kernelArguments: ['quiet'], localArguments: 'LoaderEntry' };
  await (await plant.client()).patch(computeEnvironments, environment, { spec: { boot } }, { type: 'merge' });
  await plant.until(
    'the update is shown',
    async () => (await plant.allocation('job'))?.status?.updateRevision !== undefined,
  );
  const revision = (await plant.allocation('job'))?.status?.updateRevision ?? '';
  await run(['"update":{"revision"'], { NS: 'lab', NAME: 'job', '<status.updateRevision>': revision });
  await plant.until('it is in force', async () => (await plant.allocation('job'))?.status?.revision === revision);
  await plant.settled('job');
});

test('another cluster: Adopt names whose guest it is, and nobody is imaged', options, async () => {
  const nodes = await plant.claimed('job');
  const imaged = plant.counts('imaged');
  await plant.service('one').end('SIGTERM');
  await plant.service('api').end('SIGKILL');
  await plant.forgetClient();
  rmSync(plant.apiDir, { recursive: true });
  plant.startApi();
  await plant.serving();
  await plant.describe();
  const boot = { kernelArguments: ['quiet'], localArguments: 'LoaderEntry' };
  const environment = { namespace: 'lab', name: 'rocky' };
  await (await plant.client()).patch(computeEnvironments, environment, { spec: { boot } }, { type: 'merge' });
  await plant.allocate('job', 3, { suspend: true });
  plant.startOperator('one');
  for (const name of nodes) await state(name, 'Orphaned');
  for (const name of nodes) {
    const put = { NAME: name, NS: 'lab', JOB: 'job', '"epoch":7': await epochOf(name) };
    await run(['"allocation":{'], put);
  }
  await plant.until('all are its own again', async () => (await plant.claimed('job')).length === 3);
  await run(['"suspend":false'], { NS: 'lab', JOB: 'job' });
  await plant.settled('job');
  assert.deepEqual(await plant.claimed('job'), nodes);
  assert.deepEqual(plant.counts('imaged'), imaged);
});

test(
  'the agent of a tenant is gone for ever: WriteOff, and Reclaim when it is back after all, or delete',
  options,
  async () => {
    await plant.service('agents').end('SIGKILL');
    const nodes = await plant.claimed('job');
    await plant.release('job');
    await plant.until('it says what it waits for', async () => {
      const found = (await plant.allocation('job'))?.status?.conditions?.find(({ type }) => type === 'Reconciling');
      return /no agent speaks for/.test(found?.message ?? '');
    });
    for (const name of nodes) await decide('WriteOff', name);
    await plant.until('the allocation is gone', async () => (await plant.allocation('job')) === undefined);
    assert.match(await run(['--field-selector status.state=Quarantined']), new RegExp(nodes[0] ?? ''));
    const [back = '', scrapped = ''] = nodes;
    await run(['kubectl delete pnode'], { NAME: scrapped });
    plant.startAgents();
    await plant.until(
      'it is seen to be alive',
      async () => (await statusOf(back)).writtenOff?.seenAgainAt !== undefined,
    );
    await decide('Reclaim', back);
    await state(back, 'Available');
    await state(scrapped, 'Orphaned');
    await decide('End', scrapped);
    await state(scrapped, 'Available');
  },
);

test('many deletions at once are held until each is confirmed', options, async () => {
  const names = ['a', 'b', 'c', 'd'];
  for (const name of names) await plant.allocate(name, 1, { reclaim: { gracePeriod: '10s' } });
  for (const name of names) await plant.settled(name);
  await Promise.all(names.map((name) => plant.release(name)));
  const held = async (name: string): Promise<boolean> =>
    (await plant.allocation(name))?.status?.conditions?.some(({ reason }) => reason === 'DeletionHeld') ?? false;
  await plant.until('they are held', async () => (await Promise.all(names.map(held))).every(Boolean));
  for (const name of names) await run(['confirm-deletion'], { NS: 'lab', NAME: name });
  await plant.until('they are gone', async () => {
    const left = await Promise.all(names.map((name) => plant.allocation(name)));
    return left.every((one) => one === undefined);
  });
});

test('no command of the page was left out', options, () => assert.deepEqual([...unused], []));
