/**
 * Import directions: main → reconcilers → domain → api; adapters see ports, never the domain; agent/ stands alone.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { importsOf, type SourceFile, typescript } from './source.ts';

interface Direction {
  /** Files that the rule is for: the first rule that fits counts. */
  readonly of: RegExp;
  /** What they may import from the repository. */
  readonly may: RegExp;
  readonly fix: string;
}

const foundation = 'controller/(api|runtime)/';
const ports = 'controller/(kube|agents|gitops)/([a-z-]+-)?port\\.ts$';
/** Parts of controller/kube that speak only in terms of its port, and hold what every reconciler needs. */
const kubeTools = 'controller/kube/(store|patch|informer|events|finalizers?|conditions)[a-z-]*\\.ts$';

/** Of controller/kube, besides the port, what is pure and about the API's own notions: texts of selectors, JSON, versions. */
const apiNotions = 'controller/kube/(port|json|selector|resource-version)\\.ts$';

const directions: readonly Direction[] = [
  {
    of: /^controller\/api\//,
    may: /^controller\/(api\/|kube\/port\.ts$)/,
    fix: 'controller/api is the bottom: move what it needs into controller/api',
  },
  {
    of: /^controller\/domain\//,
    may: /^controller\/(api|domain)\//,
    fix: 'the domain is pure: pass the value in as a parameter',
  },
  {
    of: /^controller\/runtime\//,
    may: new RegExp(`^${foundation}`),
    fix: 'controller/runtime knows nothing of Kubernetes or nodes: take a function or an interface as a parameter',
  },
  {
    of: /^controller\/reconcilers\//,
    may: new RegExp(`^(${foundation}|controller/(domain|reconcilers)/|${ports}|${kubeTools})`),
    fix: 'a reconciler sees ports: name what it needs in a port.ts and let controller/main.ts hand it over',
  },
  {
    of: /^controller\/kube\//,
    may: new RegExp(`^(${foundation}|controller/kube/)`),
    fix: 'an adapter never imports the domain or another adapter: return plain data and let a reconciler decide',
  },
  {
    of: /^controller\/agents\//,
    may: new RegExp(`^(${foundation}|controller/agents/)`),
    fix: 'an adapter never imports the domain or another adapter: return plain data and let a reconciler decide',
  },
  {
    of: /^controller\/gitops\//,
    may: new RegExp(`^(${foundation}|controller/gitops/|${apiNotions}|controller/standalone/schema/)`),
    fix: 'gitops sees the port of kube, its pure helpers and the offline validation, nothing else',
  },
  {
    of: /^controller\/standalone\//,
    may: new RegExp(`^(${foundation}|controller/standalone/|${apiNotions})`),
    fix: 'the API server knows no domain and no network client: what it needs stands in the CRDs',
  },
  {
    of: /^agent\//,
    may: new RegExp(`^(agent/|${foundation})`),
    fix: 'the agent shares only the protocol: controller/api and controller/runtime',
  },
];

function wrongImports(file: SourceFile): string[] {
  const rule = directions.find(({ of }) => of.test(file.path));
  if (rule === undefined) return [];
  return importsOf(file)
    .filter(({ relative, target }) => relative && !rule.may.test(target))
    .map(({ line, target }) => `${file.path}:${line} imports ${target}: ${rule.fix}`);
}

test('imports point in the direction main → reconcilers → domain → api', () => {
  const wrong = typescript().flatMap(wrongImports);
  assert.deepEqual(wrong, [], wrong.join('\n'));
});

test('a forbidden import would be found', () => {
  const text =
    "import { a } from '../kube/client.ts';\nexport { b } from '../domain/states.ts';\nawait import('../main.ts');\n";
  assert.equal(wrongImports({ path: 'controller/agents/pool.ts', text }).length, 3);
  assert.equal(wrongImports({ path: 'controller/domain/node.ts', text }).length, 2);
  assert.equal(wrongImports({ path: 'controller/reconcilers/node.ts', text }).length, 2);
});

test('nobody but an entry point imports a composition root', () => {
  const wrong = typescript()
    // The command line is the entry point of the agents, too: it starts them in a process of their own.
    .filter(({ path }) => !/^(test|bench|controller\/cli)\//.test(path))
    .flatMap((file) => importsOf(file).map((found) => ({ file, ...found })))
    .filter(({ target }) => target === 'controller/main.ts' || target === 'agent/main.ts')
    .map(({ file, line, target }) => `${file.path}:${line} imports ${target}: move the shared part out of it`);
  assert.deepEqual(wrong, [], wrong.join('\n'));
});
