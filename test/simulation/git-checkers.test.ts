/**
 * Each doubt of the checkers that watch the sync of a repository is raised by a bad history made by hand, and not by the good one beside it.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { configMaps } from '../../controller/api/meta.ts';
import type { KubeObject } from '../../controller/kube/port.ts';
import { VirtualClock } from '../support/virtual-clock.ts';
import { staleMs } from './checkers/rule-06-pruned.ts';
import { Repository, type RepositoryFile, type Statement, type Tree } from './git-repository.ts';
import { operatorNamespace, syncName } from './git-sync.ts';
import { Truth } from './truth.ts';

const kind = 'NodeAllocation';
const one = { replicas: 1 };

const says = (name: string, spec: Statement['spec'] = one): Statement => ({ kind, name, spec, valid: true });

const file = (...statements: readonly Statement[]): RepositoryFile => {
  return { text: JSON.stringify(statements), statements, unread: false };
};
const unread: RepositoryFile = { text: 'broken: [', statements: [], unread: true };

/** Each of these objects in a file of its own. */
const tree = (...names: readonly string[]): Tree => new Map(names.map((name) => [`${name}.yaml`, file(says(name))]));

class History {
  readonly clock = new VirtualClock();
  readonly repository: Repository;
  readonly truth: Truth;
  readonly objects = new Map<string, KubeObject>();
  status: Readonly<Record<string, string>> | undefined;

  /** The repository defines these, and the sync applied them. */
  constructor(...names: readonly string[]) {
    this.repository = new Repository(1, this.clock, tree(...names));
    this.truth = new Truth({
      clock: this.clock,
      trace: { add: () => {} },
      machine: () => undefined,
      repository: () => this.repository,
      tenantObjects: () => this.objects,
      syncStatus: () => this.status,
      shownPorts: () => [],
      pendingTokens: () => [],
    });
    for (const name of names) this.applies(name);
  }

  /** The branch moves, and the sync had time to see it: nobody can go by what it said before. */
  async moves(move: (repository: Repository) => void): Promise<void> {
    move(this.repository);
    await this.clock.advance(staleMs + 1);
  }

  /** Somebody sets it by kubectl. */
  stands(name: string, spec: Statement['spec']): void {
    this.objects.set(`${kind}/${name}`, { kind, metadata: { name, namespace: 'cfd', uid: name }, spec } as KubeObject);
  }

  applies(name: string, spec: Statement['spec'] = one): void {
    const old = this.objects.get(`${kind}/${name}`);
    this.stands(name, spec);
    const object = this.objects.get(`${kind}/${name}`);
    this.truth.synced({ verb: old === undefined ? 'create' : 'patch', kind, name, uid: name, old, object });
  }

  prunes(name: string, uid = name): void {
    this.objects.delete(`${kind}/${name}`);
    this.truth.synced({ verb: 'delete', kind, name, uid, old: undefined, object: undefined });
  }

  tells(status: Readonly<Record<string, string>>): void {
    this.status = { result: 'Synced', commit: this.repository.head.id, ...status };
    const metadata = { namespace: operatorNamespace, name: `${syncName}-sync` };
    this.truth.apiWrite(configMaps, 'MODIFIED', { metadata, data: this.status } as KubeObject, undefined);
  }

  rests(): void {
    this.truth.atRest();
  }
}

const waits = (name: string): Record<string, string> => ({
  notPruned: `${kind} cfd/${name} (${name}.yaml): waits for a confirmation`,
});

const good: readonly (readonly [what: string, make: (history: History) => Promise<void> | void])[] = [
  [
    'what left the repository is pruned',
    async (history) => {
      await history.moves((repository) => repository.commit(tree('a')));
      history.prunes('b');
      history.tells({});
      history.rests();
    },
  ],
  [
    'what waited is pruned once its commit was confirmed',
    async (history) => {
      await history.moves((repository) => repository.commit(tree()));
      history.tells(waits('b'));
      history.repository.confirmed.add(history.repository.head.id);
      history.prunes('b');
    },
  ],
  [
    'what was taken away is pruned by a pass that began before it was put back',
    async (history) => {
      await history.moves((repository) => repository.commit(tree('a')));
      history.repository.commit(tree('a', 'b'));
      history.prunes('b');
    },
  ],
  [
    'what somebody deleted, and then took out of the repository, does not go with what is taken out later',
    async (history) => {
      await history.moves((repository) => repository.commit(tree('a', 'b', 'c', 'd', 'e', 'f')));
      for (const name of ['c', 'd', 'e', 'f']) history.applies(name);
      for (const name of ['c', 'd']) history.objects.delete(`${kind}/${name}`);
      await history.moves((repository) => repository.commit(tree('a', 'b', 'e', 'f')));
      history.tells({});
      await history.moves((repository) => repository.commit(tree('a', 'b')));
      for (const name of ['e', 'f']) history.prunes(name);
    },
  ],
  [
    'a repository made anew is followed once that was confirmed',
    async (history) => {
      await history.moves((repository) =>
        repository.startOver(new Map([['a.yaml', file(says('a', { replicas: 2 }))]])),
      );
      history.repository.confirmed.add(history.repository.head.id);
      history.applies('a', { replicas: 2 });
    },
  ],
  [
    'what is not as the branch says is named',
    (history) => {
      history.stands('a', { replicas: 7 });
      history.tells({ problems: `${kind} cfd/a: changed by somebody else` });
      history.rests();
    },
  ],
  [
    'what waits for a confirmation is named',
    async (history) => {
      await history.moves((repository) => repository.commit(tree('a')));
      history.tells(waits('b'));
      history.rests();
    },
  ],
  [
    'a repository made anew waits for a confirmation, and says so',
    async (history) => {
      const { head } = history.repository;
      await history.moves((repository) => repository.startOver(tree('a')));
      history.tells({
        commit: head.id,
        result: 'Held',
        message: `commit ${history.repository.head.id} shares no history`,
      });
      history.rests();
    },
  ],
];

for (const [what, make] of good) {
  test(`no rule is broken where ${what}`, async () => {
    const history = new History('a', 'b');
    await make(history);
    assert.deepEqual(history.truth.violations, []);
  });
}

const bad: readonly (readonly [rule: number, why: RegExp, make: (history: History) => Promise<void> | void])[] = [
  [
    6,
    /the sync never applied that object/,
    async (history) => {
      await history.moves((repository) => repository.commit(tree('a')));
      history.prunes('b', 'made by somebody');
    },
  ],
  [6, /it is defined there/, (history) => history.prunes('b')],
  [
    6,
    /the file in which it stood has an error/,
    async (history) => {
      const broken = file({ ...says('c'), valid: false });
      await history.moves((repository) => repository.commit(new Map([...tree('a'), ['b.yaml', broken]])));
      history.prunes('b');
    },
  ],
  [
    6,
    /it may have moved into a file that cannot be read/,
    async (history) => {
      await history.moves((repository) => repository.commit(new Map([...tree('a'), ['new.yaml', unread]])));
      history.prunes('b');
    },
  ],
  [
    6,
    /does not follow any that defined it/,
    async (history) => {
      await history.moves((repository) => repository.startOver(tree('a')));
      history.prunes('b');
    },
  ],
  [
    9,
    /nothing is defined any more/,
    async (history) => {
      await history.moves((repository) => repository.commit(tree()));
      history.prunes('b');
    },
  ],
  [
    9,
    /4 of 6 objects are gone at once/,
    async (history) => {
      await history.moves((repository) => repository.commit(tree('a', 'b', 'c', 'd', 'e', 'f')));
      for (const name of ['c', 'd', 'e', 'f']) history.applies(name);
      await history.moves((repository) => repository.commit(tree('a', 'b')));
      history.prunes('c');
    },
  ],
  [
    9,
    /people were told that it waits for them/,
    async (history) => {
      await history.moves((repository) => repository.commit(tree()));
      history.tells(waits('b'));
      await history.moves((repository) => repository.commit(tree('a')));
      history.prunes('b');
    },
  ],
  [7, /which no sound definition says/, (history) => history.applies('a', { replicas: 5 })],
  [
    6,
    /follows a repository without a common past/,
    async (history) => {
      await history.moves((repository) =>
        repository.startOver(new Map([['a.yaml', file(says('a', { replicas: 2 }))]])),
      );
      history.applies('a', { replicas: 2 });
    },
  ],
  [
    7,
    /overwrites replicas, 7, which is somebody else's/,
    async (history) => {
      history.stands('a', { replicas: 7 });
      await history.moves((repository) => repository.commit(new Map([['a.yaml', file(says('a', { replicas: 2 }))]])));
      history.applies('a', { replicas: 2 });
    },
  ],
  [
    8,
    /replicas are not as the branch says/,
    (history) => {
      history.stands('a', { replicas: 7 });
      history.tells({});
      history.rests();
    },
  ],
  [
    8,
    /it is not there, as the branch says/,
    (history) => {
      history.objects.delete(`${kind}/a`);
      history.tells({});
      history.rests();
    },
  ],
  [
    8,
    /left the branch and is there/,
    async (history) => {
      await history.moves((repository) => repository.commit(tree('a')));
      history.tells({});
      history.rests();
    },
  ],
  [
    8,
    /bad\.yaml has an error, and the sync does not say so/,
    async (history) => {
      await history.moves((repository) => repository.commit(new Map([...tree('a', 'b'), ['bad.yaml', unread]])));
      history.tells({});
      history.rests();
    },
  ],
  [
    8,
    /the sync stands at [0-9a-f]{7} \(Synced\), the branch at/,
    async (history) => {
      history.tells({});
      await history.moves((repository) => repository.commit(tree('a', 'b', 'c')));
      history.rests();
    },
  ],
  [8, /the repository was never followed/, (history) => history.rests()],
];

for (const [rule, why, make] of bad) {
  test(`rule ${rule} is found broken: ${why.source}`, async () => {
    const history = new History('a', 'b');
    await make(history);
    const found = history.truth.violations.some((one) => one.rule === rule && why.test(one.message));
    assert.ok(found, `only found: ${JSON.stringify(history.truth.violations)}`);
  });
}
