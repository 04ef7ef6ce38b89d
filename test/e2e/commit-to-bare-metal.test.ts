import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { counterpart } from '../support/counterpart.ts';
import { Site } from './site-process.ts';

const dataDir = mkdtempSync(join(tmpdir(), 'site-'));
const site = new Site(dataDir);
const options = { ...counterpart('git', spawnSync('git', ['--version']).status === 0), timeout: 170_000 };

const allocation = (name: string, replicas: number, extra = ''): string => `apiVersion: bitvisor.io/v1alpha1
kind: NodeAllocation
metadata: { name: ${name}, namespace: lab }
spec:
  environmentRef: { name: rocky }
  replicas: ${replicas}
  reclaim: { gracePeriod: 0s }
${extra}`;

/** How often each machine did it. */
function counts(event: string): Map<string, number> {
  const counted = new Map<string, number>();
  for (const entry of site.history())
    if (entry.event === event) counted.set(entry.node, (counted.get(entry.node) ?? 0) + 1);
  return counted;
}

const available = async (): Promise<number> =>
  (await site.nodes()).filter((node) => node.status?.state === 'Available').length;
const write = (file: string, text: string): void => writeFileSync(join(site.repository, file), text);

before(() => site.start());
after(async () => {
  await site.end('SIGKILL');
  rmSync(dataDir, { recursive: true, force: true });
});

test(
  'a commit becomes bare metal and goes back, whatever is killed on the way, and nothing is imaged or wiped twice',
  options,
  async (t) => {
    await t.test('the example comes up by itself', async () => {
      await site.settled('first');
      await site.until('the other nodes are Available', async () => (await available()) === 8);
    });
    const wipedBefore = counts('wiped');

    await t.test('a commit, with the process killed while it is carried out', async () => {
      write('second.yaml', allocation('second', 6));
      site.commit('Six nodes');
      for (const atLeast of ['nodes', 'ready', 'installed'] as const) {
        await site.until(`second has ${atLeast}`, async () => {
          const status = (await site.allocation('second'))?.status;
          return atLeast === 'nodes' ? (status?.replicas ?? 0) > 0 : (status?.[atLeast] ?? 0) > 0;
        });
        assert.equal(await site.end('SIGKILL'), 'SIGKILL');
        site.start();
      }
      await site.settled('second');
      const imaged = counts('imaged');
      const nodes = (await site.nodes()).filter((node) => node.status?.claim?.allocation.name === 'second');
      assert.equal(nodes.length, 6);
      for (const node of nodes) assert.equal(imaged.get(node.metadata.name), 1, node.metadata.name);
      assert.deepEqual(counts('wiped'), wipedBefore);
    });

    await t.test('a bad file is reported with its line, and the good one beside it is applied', async () => {
      write('bad.yaml', allocation('bad', 1, '  replicsa: 2\n'));
      write('third.yaml', allocation('third', 1));
      site.commit('One good, one bad');
      await site.settled('third');
      await site.until('the report', async () => /bad\.yaml:\d+.*replicsa/.test(site.output));
      assert.equal(await site.allocation('bad'), undefined);
    });

    await t.test('what leaves the repository is given back clean, with the process killed on the way', async () => {
      write('second.yaml', '# nothing here any more\n');
      site.commit('Give them back');
      await site.until('the end is recorded', async () =>
        (await site.nodes()).some((node) => node.status?.end !== undefined),
      );
      await site.end('SIGKILL');
      site.start();
      await site.until(
        'second is gone and its nodes are Available',
        async () => (await site.allocation('second')) === undefined && (await available()) === 7,
      );
      const again = counts('wiped');
      for (const [name, count] of again) {
        const disks = wipedBefore.get(name) ?? 0;
        assert.ok(count === disks || count === disks * 2, `${name}: ${count} wipes, ${disks} before`);
      }
      assert.equal(counts('imaged').size, 11);
    });

    await t.test('Ctrl-C leaves cleanly, and the next start continues', async () => {
      const imaged = counts('imaged');
      assert.equal(await site.end('SIGINT'), 0, site.output.slice(-2_000));
      site.start();
      await site.settled('first');
      await site.settled('third');
      assert.deepEqual(counts('imaged'), imaged);
    });
  },
);
