/**
 * The files of tenants who keep their allocations in git, as their authors see them, and as text: pure.
 *
 * Invariant: what a file says is known from what was written, never by reading its text, so that the product's reading can be judged by it.
 */
import { stringify } from 'yaml';
import type { RepositoryFile, Statement, Tree } from './git-repository.ts';

export const namespace = 'cfd';

export interface Doc {
  readonly kind: Statement['kind'];
  readonly name: string;
  readonly spec: Statement['spec'];
}

/** What makes a file bad: not YAML, a kind that does not exist, a value or a field that is not allowed. */
export type Flaw = 'Unparsed' | 'Kind' | 'Value' | 'Field';
export const flaws: readonly Flaw[] = ['Unparsed', 'Kind', 'Value', 'Field'];

/** The files as their authors see them: what each defines, and what is wrong with it. */
export interface Draft {
  readonly docs: ReadonlyMap<string, readonly Doc[]>;
  readonly flawed: ReadonlyMap<string, Flaw>;
}

/** A commit writes every file anew, and changes one document. */
const manifests = new WeakMap<Doc, string>();

function manifest(doc: Doc): string {
  const { kind, name, spec } = doc;
  const text =
    manifests.get(doc) ?? stringify({ apiVersion: 'bitvisor.io/v1alpha1', kind, metadata: { name, namespace }, spec });
  manifests.set(doc, text);
  return text;
}

/** The flaw is in the last document: those before it are as good as ever. */
function fileWith(docs: readonly Doc[], flaw: Flaw | undefined): RepositoryFile {
  const good = docs.map((doc): Statement => ({ ...doc, valid: true }));
  const last = docs.at(-1);
  if (flaw === undefined || last === undefined) {
    return { text: docs.map(manifest).join('---\n'), statements: good, unread: false };
  }
  const before = docs.slice(0, -1).map((doc) => `${manifest(doc)}---\n`);
  const kept = good.slice(0, -1);
  const text = manifest(last);
  switch (flaw) {
    case 'Unparsed':
      return { text: `${before.join('')}${text}  broken: [\n`, statements: kept, unread: true };
    case 'Kind':
      return {
        text: `${before.join('')}${text.replace(`kind: ${last.kind}`, 'kind: NodeAlocation')}`,
        statements: kept,
        unread: true,
      };
    case 'Value':
    case 'Field': {
      const bad = flaw === 'Value' ? { ...last.spec, environmentRef: 7, image: 7 } : { ...last.spec, replcas: 2 };
      const named = manifest({ ...last, spec: bad });
      return { text: `${before.join('')}${named}`, statements: [...kept, { ...last, valid: false }], unread: false };
    }
  }
}

export function treeOf({ docs, flawed }: Draft): Tree {
  return new Map([...docs].map(([path, list]) => [path, fileWith(list, flawed.get(path))]));
}
