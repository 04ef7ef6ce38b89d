/**
 * The whole of it with real guests: two tenants, four machines that QEMU plays, the operator and one agent as processes, git between.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { buildLabImages, type LabImage, type LabImages } from '../../agent/drivers/qemu/images/build.ts';
import { patternedBytes } from '../../agent/drivers/qemu/images/pattern.ts';
import { controlAddress, dataAddress, dataGateway } from '../../agent/drivers/qemu/network.ts';
import { labOptions } from './needs.ts';
import { imageDirectory } from './one-machine.ts';
import { agentHost, LabSite } from './site.ts';

const options = labOptions(900);
const mebi = 2 ** 20;
/** Behind the partitions: bytes that no guest touches. */
const imageBytes = 68 * mebi;
const partitionsBytes = 64 * mebi;
const secret = 'the red tenants own words';
/** Of a file in the first environment (images/build.ts). */
const alphaSum = createHash('sha256')
  .update(patternedBytes('alpha', 0, 2 * mebi))
  .digest('hex');

let dataDir = '';
let images: LabImages;
let site: LabSite;

const environment = (namespace: string, image: LabImage, argument: string): string => `---
apiVersion: bitvisor.io/v1alpha1
kind: ComputeEnvironment
metadata: { name: system, namespace: ${namespace} }
spec:
  os: { family: Linux, name: ${image.name}, architecture: x86_64 }
  image: { url: 'file://${image.path}', size: '${image.sizeBytes}', sha256: ${image.sha256} }
  boot: { firmware: Bios, kernelArguments: [${argument}], localArguments: LoaderEntry }
`;
const allocation = (namespace: string, replicas: number, more = ''): string => `---
apiVersion: bitvisor.io/v1alpha1
kind: NodeAllocation
metadata: { name: compute, namespace: ${namespace} }
spec:
  environmentRef: { name: system }
  replicas: ${replicas}
  reclaim: { gracePeriod: 0s }
${more}`;
const namespaceOf = (name: string): string => `apiVersion: v1\nkind: Namespace\nmetadata: { name: ${name} }\n`;
const red = (image: LabImage, argument: string, more = ''): string =>
  namespaceOf('red') + environment('red', image, argument) + allocation('red', 2, more);

const agents = `apiVersion: bitvisor.io/v1alpha1
kind: BitVisorAgent
metadata: { name: lab }
spec:
  endpoint: https://${agentHost}:17711
  location: { site: lab, rack: lab }
  nodes: lab[0-3]
  commission: { storeId: lab-store, nodes: 'lab[0-3]' }
`;

before(async () => {
  if (options.skip !== undefined) return;
  dataDir = mkdtempSync(join(tmpdir(), 'lab-site-'));
  images = await buildLabImages(imageDirectory, { sizeBytes: imageBytes });
  const blue =
    namespaceOf('blue') +
    environment('blue', images.beta, `lab.tenant=blue, lab.gateway=${dataGateway}`) +
    allocation('blue', 1, '  isolation: { egress: Shared }\n');
  site = new LabSite({
    dataDir,
    images,
    files: { 'agents.yaml': agents, 'red.yaml': red(images.alpha, 'lab.tenant=red'), 'blue.yaml': blue },
    agent: { name: 'lab', port: 17_711, nodes: 'lab[0-3]', storeId: 'lab-store' },
    rateBytes: 24 * mebi,
  });
  site.startOperator();
  await site.startAgent();
});

after(async () => {
  if (options.skip !== undefined) return;
  await site.close();
  rmSync(dataDir, { recursive: true, force: true });
});

const status = async (namespace: string) => (await site.allocation(namespace, 'compute'))?.status;
const addressOf = (node: string): string => dataAddress(Number(/\d+$/.exec(node)?.[0]));
/** On both disks. */
const writesItsOwn = (node: string): Promise<string> =>
  site.inGuest(node, `echo '${secret}' >own && echo '${secret}' >/dev/vdb && sync`);
const reaches = async (from: string, address: string): Promise<boolean> =>
  (await site.inGuest(from, `ping -c 1 -W 2 ${address} >/dev/null 2>&1 && echo REACHED || echo NOT`)).includes(
    'REACHED',
  );

test(
  'two tenants, from a commit to bare metal, through an update of one, to nodes that hold nothing of them',
  options,
  async (t) => {
    let redNodes: string[] = [];
    let blueNode = '';

    await t.test('a commit becomes guests of the right environment, on isolated nodes', async () => {
      await site.until(
        'both have their guests',
        async () => (await status('red'))?.ready === 2 && (await status('blue'))?.ready === 1,
      );
      redNodes = await site.nodesOf('red');
      [blueNode = ''] = await site.nodesOf('blue');
      for (const node of [...redNodes, blueNode]) {
        const [name, tenant] = node === blueNode ? ['beta', 'blue'] : ['alpha', 'red'];
        const args = `args=.*lab\\.env=${name} .*lab\\.tenant=${tenant}`;
        const said = new RegExp(`LAB-UP env=${name} .*ip=${addressOf(node)} .*${args}`);
        await site.until(`${node} says what it is`, async () => said.test(site.serialLog(node)));
        // Over HTTP, from itself or from its neighbour.
        const from = redNodes.find((other) => node !== blueNode && other !== node) ?? node;
        const page = await site.inGuest(from, `wget -q -O - http://${addressOf(node)}/cgi-bin/info`);
        for (const line of [`env=${name}`, `ip=${addressOf(node)}`, args])
          assert.match(page, new RegExp(`^${line}`, 'm'));
      }
    });

    const assertIsolated = async (): Promise<void> => {
      const [first = '', second = ''] = redNodes;
      assert.ok(await reaches(first, addressOf(second)), 'the other node of the tenant');
      assert.ok(!(await reaches(first, addressOf(blueNode))), 'the other tenant');
      assert.ok(!(await reaches(blueNode, addressOf(first))), 'and back');
      assert.ok(!(await reaches(first, dataGateway)), 'the rack itself, without egress');
      assert.ok(await reaches(blueNode, dataGateway), 'and with it');
      assert.ok(!(await reaches(blueNode, controlAddress(0))), 'no way to provisioning, with egress neither');
      const carrier = await site.inGuest(first, 'cat /sys/class/net/eth1/carrier 2>/dev/null || echo none');
      assert.equal(carrier, '0', 'the control port');
    };
    await t.test('tenants reach their own nodes, what their egress opens, and nobody else', assertIsolated);

    await t.test('the disk fills under the running guest and keeps what it wrote', async () => {
      for (const node of redNodes) await writesItsOwn(node);
      await site.until(
        'everything is installed',
        async () => (await status('red'))?.installed === 2 && (await status('blue'))?.installed === 1,
      );
    });

    await t.test('the hypervisor leaves, the image server may die, and the guests run on', async () => {
      await site.until(
        'bare metal',
        async () => (await status('red'))?.devirtualized === 2 && (await status('blue'))?.devirtualized === 1,
      );
      await site.endAgent('SIGKILL');
      for (const node of [...redNodes, blueNode]) {
        assert.equal(await site.graph(node, 'sda'), 'sda-top -file-> sda-file', 'no mediator is left');
        assertOnDisk(node, node === blueNode ? images.beta : images.alpha);
      }
      for (const node of redNodes) {
        assert.match(await site.inGuest(node, 'echo 3 >/proc/sys/vm/drop_caches; cat own'), new RegExp(secret));
        const [sum] = (await site.inGuest(node, 'sha256sum alpha.bin')).split(/\s/);
        assert.equal(sum, alphaSum, 'a file of its image, read from its own disk');
      }
      await site.startAgent();
      await site.until('the new agent is seen', async () => site.agentStarts() === 2);
      assert.deepEqual([(await status('red'))?.ready, (await status('red'))?.devirtualized], [2, 2]);
      for (const node of [...redNodes, blueNode])
        assert.equal(site.hasLink(node, 'Control'), false, `the control port of ${node} is closed`);
      await assertIsolated();
    });

    await t.test('a changed environment waits for its owner, and then rolls one node at a time', async () => {
      const before = (await status('red'))?.revision;
      site.commit('red.yaml', red(images.beta, 'lab.tenant=red-2'), 'A new environment');
      await site.until(
        'the update is shown',
        async () =>
          (await status('red'))?.conditions?.some(
            ({ type, status: is }) => type === 'UpdateAvailable' && is === 'True',
          ) === true,
      );
      assert.equal((await status('red'))?.revision, before);
      site.commit(
        'red.yaml',
        red(images.beta, 'lab.tenant=red-2', '  update: { policy: Rolling }\n'),
        'Its owner wants it',
      );
      let least = 2;
      let leastOn = 2;
      await site.until(
        'both run it',
        async () => {
          const now = await status('red');
          least = Math.min(least, now?.ready ?? 2);
          leastOn = Math.min(leastOn, redNodes.filter((node) => site.isOn(node)).length);
          const nodes = (await site.nodes()).filter(({ metadata }) => redNodes.includes(metadata.name));
          const isNew = nodes.every(
            ({ status: is }) => is?.state === 'BareMetal' && is.claim?.revision === now?.revision,
          );
          return now?.revision !== before && now?.updating === undefined && now?.devirtualized === 2 && isNew;
        },
        420_000,
      );
      assert.equal(least, 1, 'one at a time');
      assert.ok(leastOn >= 1, 'never both without power');
      assert.deepEqual(await site.nodesOf('red'), redNodes);
      for (const node of redNodes) {
        const info = await site.inGuest(node, 'cat /run/info; cat own 2>&1');
        assert.match(info, /^env=beta$/m);
        assert.match(info, /^args=.*lab\.tenant=red-2/m);
        assert.doesNotMatch(info, new RegExp(secret));
      }
    });

    await t.test('what is given back is wiped, and parked for the next', async () => {
      for (const node of redNodes) {
        await writesItsOwn(node);
        for (const disk of ['sda', 'sdb']) assert.ok(readFileSync(site.diskPath(node, disk)).includes(secret), disk);
      }
      site.commit('red.yaml', '# nothing here any more\n', 'Given back');
      await site.until('its nodes are parked', async () => {
        const nodes = (await site.nodes()).filter(({ metadata }) => redNodes.includes(metadata.name));
        return nodes.every(({ status }) => status?.state === 'Available' && status.claim === undefined);
      });
      for (const node of redNodes) {
        for (const disk of ['sda', 'sdb']) {
          const bytes = readFileSync(site.diskPath(node, disk));
          assert.ok(bytes.equals(Buffer.alloc(bytes.length)), `${disk} of ${node} is all zeros`);
        }
      }
      const parked = (await site.nodes()).find(({ metadata }) => metadata.name === redNodes[0]);
      assert.equal(parked?.status?.observed?.power, 'Off');
      assert.match(await site.inGuest(blueNode, 'uptime'), /up/, 'the other tenant noticed nothing');
    });
  },
);

/** Byte by byte where no guest writes: the boot partition and what lies behind the partitions. */
function assertOnDisk(node: string, image: LabImage): void {
  const disk = readFileSync(site.diskPath(node, 'sda'));
  const wanted = readFileSync(image.path);
  assert.ok(
    disk.subarray(partitionsBytes, image.sizeBytes).equals(wanted.subarray(partitionsBytes)),
    'behind the partitions',
  );
  const rootStart = wanted.readUInt32LE(446 + 16 + 8) * 512;
  const blocks = { boot: 0, root: 0 };
  for (let at = 0; at < partitionsBytes; at += 4096) {
    if (disk.subarray(at, at + 4096).equals(wanted.subarray(at, at + 4096))) continue;
    blocks[at < rootStart ? 'boot' : 'root']++;
  }
  // What the boot server filled in: the seed and the boot entry, both of a few blocks.
  assert.ok(blocks.boot <= 40, `${blocks.boot} blocks of the boot partition differ`);
  assert.ok(blocks.root <= 2048, `${blocks.root} blocks of the root partition differ`);
}
