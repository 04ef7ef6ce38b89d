/** Runs the programs of the lab: ip, qemu-img, qemu-system-x86_64, dnsmasq, and those that make images. Never through a shell. */
import { execFile } from 'node:child_process';

export interface RunOptions {
  /** For its standard input. */
  readonly input?: string;
  readonly cwd?: string;
  /** The whole of it; this process's own when absent. */
  readonly env?: Readonly<Record<string, string>>;
}

/** Debian packages of programs that are not named like theirs. */
const packageOf: Readonly<Record<string, string>> = {
  'apt-cache': 'apt',
  'apt-get': 'apt',
  debugfs: 'e2fsprogs',
  dnsmasq: 'dnsmasq-base',
  dumpe2fs: 'e2fsprogs',
  ip: 'iproute2',
  mcopy: 'mtools',
  mke2fs: 'e2fsprogs',
  'mkfs.fat': 'dosfstools',
  'qemu-img': 'qemu-utils',
  'qemu-system-x86_64': 'qemu-system-x86',
};

/**
 * @returns what it printed
 * @throws Error with its last words, or the Debian package to install; its `cause` has the exit status as `code`
 */
export function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const { input, cwd, env } = options;
  return new Promise((resolve, reject) => {
    const child = execFile(program, args, { maxBuffer: 16 * 2 ** 20, cwd, env }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
        reject(new Error(`${program} is not installed: apt-get install ${packageOf[program] ?? program}`));
      } else {
        const said = stderr.trim() || stdout.trim() || error.message;
        const lastWords = said.split('\n').slice(-3).join(' ');
        reject(new Error(`${program} ${args.slice(0, 6).join(' ')}: ${lastWords}`, { cause: error }));
      }
    });
    if (input !== undefined) child.stdin?.end(input);
  });
}
