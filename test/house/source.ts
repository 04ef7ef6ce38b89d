/**
 * The repository as the house rules see it: its own files, their text, and TypeScript without strings and comments.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));

export interface SourceFile {
  /** Relative to the root, with slashes. */
  readonly path: string;
  readonly text: string;
}

/** Everything that git knows or would add, so that a mistake shows before it is committed. */
function listFiles(): string[] {
  const options = { cwd: root, encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 } as const;
  const listed = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '-z'], options);
  return [...new Set(listed.split('\0'))].filter((path) => path !== '' && existsSync(join(root, path))).sort();
}

let loaded: readonly SourceFile[] | undefined;

/** Every text file of the repository. */
export function repository(): readonly SourceFile[] {
  loaded ??= listFiles()
    .map((path) => ({ path, bytes: readFileSync(join(root, path)) }))
    .filter(({ bytes }) => !bytes.includes(0))
    .map(({ path, bytes }) => ({ path, text: bytes.toString('utf8') }));
  return loaded;
}

export const isGenerated = (path: string): boolean =>
  path.endsWith('.generated.ts') || path.startsWith('charts/manifests/');

export function typescript(): readonly SourceFile[] {
  return repository().filter(({ path }) => path.endsWith('.ts') && !isGenerated(path));
}

/** Comments, strings and regular expressions give way to blanks; line breaks stay, so that line numbers do too. */
export function codeOnly(text: string): string {
  const hidden =
    /\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|(?<=[=(,:!&|?{};\n]\s*)\/(?![*/])(?:[^/\\\n[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[dgimsuvy]*/g;
  return text.replace(hidden, (match) => match.replace(/[^\n]/g, ' '));
}

export interface ImportOf {
  readonly line: number;
  /** Path in the repository of a relative import, the package's name of any other. */
  readonly target: string;
  readonly relative: boolean;
}

/** What a file imports, also by `export from` and by `import()` of a literal. */
export function importsOf(file: SourceFile): ImportOf[] {
  const pattern = /(?:^|[\s;}])(?:from|import)\s*\(?\s*'([^'\n]+)'/g;
  return [...file.text.matchAll(pattern)].map((match) => {
    const name = match[1] ?? '';
    const relative = name.startsWith('.');
    const line = file.text.slice(0, match.index).split('\n').length;
    return { line, relative, target: relative ? normalize(join(dirname(file.path), name)) : name };
  });
}
