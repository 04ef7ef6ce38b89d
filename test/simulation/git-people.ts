/**
 * Tenants who keep their allocations in git: what they commit, what goes wrong with it, and how they put it right.
 *
 * Invariants:
 * 1. What they say by kubectl about an object of theirs is something that no commit ever says: whose word a field is can be told.
 * 2. A mistake is followed by what people do about it, or by nothing, as chance has it.
 */
import { computeEnvironments, configMaps, nodeAllocations } from '../../controller/api/meta.ts';
import type { ConfigMap } from '../../controller/gitops/inventory.ts';
import type { Random } from '../../controller/runtime/random.ts';
import { chance, int, pick, pickMaybe, weighted } from './chance.ts';
import { type Doc, type Draft, type Flaw, namespace, treeOf } from './git-drafts.ts';
import { type Commit, pastOf, Repository, type Statement } from './git-repository.ts';
import { operatorNamespace, syncName } from './git-sync.ts';
import { digestOf, unlessGone } from './people.ts';
import type { World } from './world.ts';

/** Two have a file of their own, the others share one. */
const tenants = ['g0', 'g1', 'g2', 'g3', 'g4'];
const environments = ['env-g0', 'env-g1', 'env-g2'];
const environmentFile = 'environments.yaml';
const fileOf = (tenant: string): string =>
  tenant === 'g0' || tenant === 'g1' ? `tenants/${tenant}.yaml` : 'tenants/team.yaml';

const gvkOf = { ComputeEnvironment: computeEnvironments, NodeAllocation: nodeAllocations };

export class GitPeople {
  readonly repository: Repository;
  readonly #world: World;
  readonly #random: Random;
  readonly #drafts = new Map<string, Draft>();
  #images = 0;
  #edits = 0;

  constructor(world: World) {
    this.#world = world;
    this.#random = world.random('git');
    const docs = new Map([[environmentFile, environments.map((name) => this.#environment(name))]]);
    const first: Draft = { docs, flawed: new Map() };
    this.repository = new Repository(world.seed, world.clock, treeOf(first));
    this.#drafts.set(this.repository.head.id, first);
  }

  get #draft(): Draft {
    return this.draftOf(this.repository.head);
  }

  draftOf(commit: Commit): Draft {
    const draft = this.#drafts.get(commit.id);
    if (draft === undefined) throw new Error(`nobody made the commit ${commit.id}`);
    return draft;
  }

  #environment(name: string): Doc {
    const url = `https://images.example/git-${++this.#images}.raw`;
    const spec = {
      os: { family: 'Linux', name: 'Rocky Linux', architecture: 'x86_64' },
      image: { url, format: 'Raw', size: pick(this.#random, ['2Gi', '8Gi']), sha256: digestOf(url) },
      boot: { firmware: 'Uefi' },
      install: { yield: 'Fair', disk: { media: 'Any' } },
      vmm: { dataPorts: 'Passthrough' },
      requirements: {},
      allowedNamespaces: { from: 'Same' },
    };
    return { kind: 'ComputeEnvironment', name, spec };
  }

  #allocation(name: string): Doc {
    const random = this.#random;
    const replicas = 1 + int(random, 2);
    const spec = {
      environmentRef: { name: pick(random, environments) },
      replicas,
      placement: {},
      isolation: { egress: 'None' },
      access: { sshKeys: [`ssh-ed25519 KEYof${name}x${this.#world.clock.monotonic()}`] },
      devirtualize: chance(random, 0.3) ? 'Never' : 'WhenInstalled',
      update: { policy: chance(random, 0.5) ? 'Rolling' : 'OnDemand', maxUnavailable: 1 },
      failurePolicy: chance(random, 0.5) ? 'Replace' : 'Report',
      reclaim: { erase: 'Quick', gracePeriod: pick(random, ['0s', '30s', '5m']) },
      deletionPolicy: chance(random, 0.15) ? 'Retain' : 'Release',
      priority: int(random, 3),
      suspend: chance(random, 0.1),
    };
    return { kind: 'NodeAllocation', name, spec };
  }

  #commit(draft: Draft, what: string): Commit {
    const commit = this.repository.commit(treeOf(draft));
    this.#drafts.set(commit.id, draft);
    this.#world.trace.add('git', `commit ${commit.id.slice(0, 7)} ${what}`);
    return commit;
  }

  /** Where an object stands now. */
  #pathOf(name: string): string | undefined {
    return [...this.#draft.docs].find(([, docs]) => docs.some((doc) => doc.name === name))?.[0];
  }

  #allocations(): Doc[] {
    return [...this.#draft.docs.values()].flat().filter(({ kind }) => kind === 'NodeAllocation');
  }

  /** The draft with this object in the file, in the place of what the file said of it. */
  #with(path: string, doc: Doc): Draft {
    const { docs, flawed } = this.#draft;
    const others = (docs.get(path) ?? []).filter(({ name }) => name !== doc.name);
    return { docs: new Map([...docs, [path, [...others, doc]]]), flawed };
  }

  #without(path: string, name: string, { docs, flawed }: Draft = this.#draft): Draft {
    const left = (docs.get(path) ?? []).filter((doc) => doc.name !== name);
    const [keptDocs, keptFlaws] = [new Map(docs), new Map(flawed)];
    if (left.length > 0) keptDocs.set(path, left);
    else {
      keptDocs.delete(path);
      keptFlaws.delete(path);
    }
    return { docs: keptDocs, flawed: keptFlaws };
  }

  #change(doc: Doc, change: Statement['spec']): void {
    const path = this.#pathOf(doc.name);
    if (path === undefined) return;
    this.#commit(
      this.#with(path, { ...doc, spec: { ...doc.spec, ...change } }),
      `${Object.keys(change)} of ${doc.name}`,
    );
  }

  /** One ordinary commit. */
  act(): void {
    const random = this.#random;
    const name = pick(random, tenants);
    const doc = this.#allocations().find((one) => one.name === name);
    const path = this.#pathOf(name);
    if (doc === undefined || path === undefined) {
      const made = this.#allocation(name);
      this.#commit(this.#with(fileOf(name), made), `create ${name}`);
      return;
    }
    const { replicas, suspend } = doc.spec;
    const action = weighted(random, ordinary) ?? 'scale';
    if (action === 'scale') this.#change(doc, { replicas: (Number(replicas) % 3) + 1 });
    if (action === 'suspend') this.#change(doc, { suspend: suspend !== true });
    if (action === 'priority') this.#change(doc, { priority: int(random, 5) });
    if (action === 'delete') this.#commit(this.#without(path, name), `delete ${name}`);
    if (action === 'image') this.#newImage();
  }

  #newImage(): void {
    const path = this.#pathOf(environments[0] ?? '');
    const { docs, flawed } = this.#draft;
    const environment = pickMaybe(this.#random, docs.get(path ?? '') ?? []);
    if (path === undefined || environment === undefined) return;
    const list = (docs.get(path) ?? []).map((doc) =>
      doc === environment ? { ...doc, spec: { ...doc.spec, image: this.#environment(doc.name).spec.image } } : doc,
    );
    this.#commit({ docs: new Map([...docs, [path, list]]), flawed }, `image of ${environment.name}`);
  }

  /** A file that is good becomes bad; its author sees it some time later. */
  spoil(flaw: Flaw): boolean {
    const { docs, flawed } = this.#draft;
    const path = pickMaybe(
      this.#random,
      [...docs.keys()].filter((one) => !flawed.has(one)),
    );
    if (path === undefined) return false;
    this.#commit({ docs, flawed: new Map([...flawed, [path, flaw]]) }, `${flaw} in ${path}`);
    this.#later(0.8, () => this.#mend(path));
    return true;
  }

  #mend(path: string): void {
    const { docs, flawed } = this.#draft;
    if (!flawed.has(path)) return;
    this.#commit({ docs, flawed: new Map([...flawed].filter(([one]) => one !== path)) }, `mend ${path}`);
  }

  /** An object moves to a file that nobody can read, and the file in which it stood gets a flaw of its own. */
  moveBadly(): boolean {
    const doc = pickMaybe(this.#random, this.#allocations());
    const from = doc === undefined ? undefined : this.#pathOf(doc.name);
    if (doc === undefined || from === undefined) return false;
    const to = `moved/${doc.name}.yaml`;
    if (from === to) return false;
    const left = this.#without(from, doc.name);
    const flawed = new Map([...left.flawed, [to, pick(this.#random, ['Unparsed', 'Kind'] as const)]]);
    if (left.docs.has(from) && chance(this.#random, 0.5)) flawed.set(from, 'Value');
    this.#commit({ docs: new Map([...left.docs, [to, [doc]]]), flawed }, `move ${doc.name} to ${to}`);
    this.#later(0.6, () => this.#mend(from));
    this.#later(0.6, () => this.#mend(to));
    return true;
  }

  /** The same object in a second file, with another word in it. */
  copy(): boolean {
    const doc = pickMaybe(this.#random, this.#allocations());
    if (doc === undefined) return false;
    const path = `copies/${doc.name}.yaml`;
    if (this.#draft.docs.has(path)) return false;
    const copied = { ...doc, spec: { ...doc.spec, priority: int(this.#random, 5) } };
    this.#commit(this.#with(path, copied), `copy of ${doc.name}`);
    this.#later(0.8, () => {
      const keep = pick(this.#random, [path, fileOf(doc.name)]);
      const other = keep === path ? fileOf(doc.name) : path;
      if (this.#draft.docs.has(keep)) this.#commit(this.#without(other, doc.name), `one copy of ${doc.name}`);
    });
    return true;
  }

  /** Everything is gone, or everything but the environments. */
  prune(everything: boolean): boolean {
    const before = this.#draft;
    const kept = everything ? [] : [...before.docs].filter(([path]) => path === environmentFile);
    if (kept.length === before.docs.size) return false;
    this.#commit({ docs: new Map(kept), flawed: new Map() }, everything ? 'emptied' : 'all allocations pruned');
    const putBack = (): void => void this.#commit(before, 'put back');
    const random = this.#random;
    const reaction = weighted(random, reactions);
    if (reaction === 'putBack') this.#after(pick(random, [3_000, 20_000, 60_000, 240_000, 900_000]), putBack);
    if (reaction === 'confirm') this.#later(1, () => void this.confirm());
    return true;
  }

  /** The branch goes back to an older commit by force. */
  rewind(): boolean {
    const newest = this.repository.head;
    const older = pickMaybe(this.#random, pastOf(newest).slice(1, 6));
    if (older === undefined) return false;
    this.#push(older, 'back');
    this.#settleRewrite(newest);
    return true;
  }

  /** The repository is made anew, with what there was or with less. */
  startOver(): boolean {
    const newest = this.repository.head;
    const { docs, flawed } = this.#draft;
    const kept = new Map([...docs].filter(() => chance(this.#random, 0.6)));
    const draft: Draft = { docs: kept, flawed: new Map([...flawed].filter(([path]) => kept.has(path))) };
    const commit = this.repository.startOver(treeOf(draft));
    this.#drafts.set(commit.id, draft);
    this.#world.trace.add('git', `starts over at ${commit.id.slice(0, 7)}`);
    this.#settleRewrite(newest);
    return true;
  }

  #push(commit: Commit, what: string): void {
    this.repository.push(commit);
    this.#world.trace.add('git', `push ${commit.id.slice(0, 7)} ${what}`);
  }

  #settleRewrite(newest: Commit): void {
    const reaction = weighted(this.#random, reactions);
    if (reaction === 'putBack') this.#later(1, () => this.#push(newest, 'forth'));
    if (reaction === 'confirm') this.#later(1, () => void this.confirm());
  }

  /** What the status tells people to do to have what it holds back done. */
  async confirm(): Promise<void> {
    const key = { namespace: operatorNamespace, name: `${syncName}-sync` };
    const status = await unlessGone(this.#world.kube.get<ConfigMap>(configMaps, key));
    const told = /annotate --overwrite configmap \S+ (\S+)=([0-9a-f]+)/.exec(status?.data?.message ?? '');
    const [, annotation, commit] = told ?? [];
    if (annotation === undefined || commit === undefined) return;
    this.#world.trace.add('git', `confirm ${commit.slice(0, 7)}`);
    this.repository.confirmed.add(commit);
    const metadata = { annotations: { [annotation]: commit } };
    await unlessGone(this.#world.kube.patch(configMaps, key, { metadata }, { type: 'merge' }));
  }

  /** Somebody changes by kubectl what git defines, now and then what git changes in the same minute. */
  async edit(): Promise<boolean> {
    const doc = pickMaybe(this.#random, this.#allocations());
    if (doc === undefined) return false;
    const priority = 100 + ++this.#edits;
    const committed = int(this.#random, 5);
    if (chance(this.#random, 0.5)) {
      this.#after(int(this.#random, 60_000), () => {
        const now = this.#allocations().find(({ name }) => name === doc.name);
        if (now !== undefined) this.#change(now, { priority: committed });
      });
    }
    await unlessGone(
      this.#world.kube.patch(nodeAllocations, { namespace, name: doc.name }, { spec: { priority } }, { type: 'merge' }),
    );
    return true;
  }

  /** Somebody deletes by kubectl what git defines. */
  async delete(): Promise<boolean> {
    const doc = pickMaybe(this.#random, [...this.#draft.docs.values()].flat());
    if (doc === undefined) return false;
    await unlessGone(this.#world.kube.delete(gvkOf[doc.kind], { namespace, name: doc.name }));
    return true;
  }

  hide(state: Repository['state']): void {
    this.repository.state = state;
    this.#world.trace.add('git', `the repository is ${state}`);
    this.#after(60_000 + int(this.#random, 1_800_000), () => this.show());
  }

  show(): void {
    if (this.repository.state === 'Reachable') return;
    this.repository.state = 'Reachable';
    this.#world.trace.add('git', 'the repository is Reachable');
  }

  #after(ms: number, act: () => void): void {
    this.#world.clock.setTimer(ms, () => {
      if (!this.#world.calm) act();
    });
  }

  /** With this chance, some time later. */
  #later(probability: number, act: () => void): void {
    const random = this.#random;
    const ms = pick(random, [30_000, 200_000, 900_000]) + int(random, 60_000);
    if (chance(random, probability)) this.#after(ms, act);
  }

  /**
   * The storm is over: the repository can be reached, some of what is wrong is put right, nothing stays suspended, and what
   * is held is confirmed or not.
   */
  settle(): void {
    this.show();
    for (const path of [...this.#draft.flawed.keys()]) if (chance(this.#random, 0.5)) this.#mend(path);
    const { docs, flawed } = this.#draft;
    const started = [...docs].map(([path, list]) => {
      const running = list.map((doc) =>
        doc.spec.suspend === true ? { ...doc, spec: { ...doc.spec, suspend: false } } : doc,
      );
      return [path, running] as const;
    });
    this.#commit({ docs: new Map(started), flawed }, 'nothing is suspended');
    if (chance(this.#random, 0.5)) this.#world.clock.setTimer(1_200_000, () => void this.confirm());
  }
}

const ordinary: readonly (readonly [string, number])[] = [
  ['scale', 4],
  ['delete', 2],
  ['suspend', 1],
  ['priority', 2],
  ['image', 2],
];

const reactions: readonly (readonly ['putBack' | 'confirm' | 'nothing', number])[] = [
  ['putBack', 5],
  ['confirm', 3],
  ['nothing', 1],
];
