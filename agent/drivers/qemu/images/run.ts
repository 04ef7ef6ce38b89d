/**
 * Runs a program to its end, without a shell; what fails says which program, why, and its last words.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const execute = promisify(execFile);

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** Standard output. Throws an Error that names the Debian package to install when the program is not there. */
export async function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  try {
    const { stdout } = await execute(program, args, {
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C', ...options.env },
      maxBuffer: 16 << 20,
    });
    return stdout;
  } catch (error) {
    throw new Error(reason(program, args, error), { cause: error });
  }
}

/** Which Debian package brings a program that the images need. */
const packageOf: Readonly<Record<string, string>> = {
  'apt-cache': 'apt',
  'apt-get': 'apt',
  debugfs: 'e2fsprogs',
  dpkg: 'dpkg',
  dumpe2fs: 'e2fsprogs',
  mcopy: 'mtools',
  mke2fs: 'e2fsprogs',
  'mkfs.fat': 'dosfstools',
  syslinux: 'syslinux',
};

function reason(program: string, args: readonly string[], error: unknown): string {
  const { code, stderr } = error as { code?: unknown; stderr?: string };
  if (code === 'ENOENT') {
    return `${program} is not installed: apt-get install ${packageOf[program] ?? program}`;
  }
  const lastWords = (stderr ?? '').trim().split('\n').slice(-3).join(' ');
  return `${program} ${args.join(' ')} failed (${String(code)}): ${lastWords}`;
}
