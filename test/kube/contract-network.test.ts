/**
 * The network client under the contract suite, against the standalone server and, where there is one, a real kube-apiserver.
 */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parse } from 'yaml';
import { createKubeClient } from '../../controller/kube/client.ts';
import { type GroupVersionKind, type KubeClient, KubeError, type KubeObject } from '../../controller/kube/port.ts';
import { sleep, systemClock } from '../../controller/runtime/clock.ts';
import { systemRandom } from '../../controller/runtime/random.ts';
import { startStandalone } from '../../controller/standalone/server.ts';
import { kubeContract } from '../contract/kube.ts';
import { counterpart } from '../support/counterpart.ts';
import { kubebuilderAssets, startRealApiServer } from '../support/kube-apiserver.ts';
import { configMapKind, environments } from '../support/kube-kinds.ts';

const namespaceKind: GroupVersionKind = {
  group: '',
  version: 'v1',
  kind: 'Namespace',
  plural: 'namespaces',
  namespaced: false,
};
const crdKind: GroupVersionKind = {
  group: 'apiextensions.k8s.io',
  version: 'v1',
  kind: 'CustomResourceDefinition',
  plural: 'customresourcedefinitions',
  namespaced: false,
};

async function crds(): Promise<KubeObject[]> {
  const folder = new URL('../../crds/', import.meta.url);
  const files = (await readdir(folder)).filter((name) => name.endsWith('.yaml'));
  return Promise.all(files.map(async (name) => parse(await readFile(new URL(name, folder), 'utf8'))));
}

const connect = (kubeconfigPath: string): Promise<KubeClient> =>
  createKubeClient({ kubeconfigPath, clock: systemClock, userAgent: 'bitvisor-operator (contract)' });

/** Readiness of an API server comes before that of its custom resources. */
async function served(client: KubeClient): Promise<void> {
  for (let left = 300; left > 0; left--) {
    try {
      await client.list(environments.gvk, { limit: 1 });
      return;
    } catch (error) {
      if (!(error instanceof KubeError)) throw error;
      await sleep(systemClock, 100);
    }
  }
  throw new Error('custom resources are not served after 30 s');
}

/** Few enough to write over, more than any test of the suite makes between two looks. */
const historyKept = 100;

kubeContract('over the network, standalone server', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'bitvisor-contract-'));
  const server = await startStandalone({
    dataDir,
    port: 0,
    crds: await crds(),
    clock: systemClock,
    random: systemRandom,
    history: { events: historyKept, bytes: 1_000_000 },
  });
  const client = await connect(server.kubeconfigPath);
  await client.create(namespaceKind, { metadata: { name: 'contract' } });
  return {
    client,
    namespace: 'contract',
    statusKind: environments,
    compact: async () => {
      const metadata = { name: 'noise', namespace: 'contract' };
      await client.create(configMapKind, { metadata });
      for (let index = 0; index < 2 * historyKept; index++) {
        await client.patch(configMapKind, metadata, { data: { index: String(index) } }, { type: 'merge' });
      }
    },
    close: async () => {
      await client.close();
      await server.close();
      await rm(dataDir, { recursive: true });
    },
  };
});

const assets = kubebuilderAssets();
const { skip } = counterpart('kube-apiserver', assets !== undefined, 'set KUBEBUILDER_ASSETS to its directory');
kubeContract(
  'over the network, real kube-apiserver',
  async () => {
    const server = await startRealApiServer(assets ?? '');
    const client = await connect(server.kubeconfig);
    for (const crd of await crds()) await client.create(crdKind, crd);
    await served(client);
    await client.create(namespaceKind, { metadata: { name: 'contract' } });
    return {
      client,
      namespace: 'contract',
      statusKind: environments,
      close: async () => {
        await client.close();
        await server.stop();
      },
    };
  },
  typeof skip === 'string' ? { skip } : {},
);
