/** Programs of others that a test needs, and what is said where they are missing. */
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import process from 'node:process';

const packages: Readonly<Record<string, string>> = {
  fsverity: 'fsverity',
  nbdinfo: 'libnbd-bin',
  nbdcopy: 'libnbd-bin',
  nbdkit: 'nbdkit',
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  vblade: 'vblade',
  ip: 'iproute2',
};

function isThere(program: string): boolean {
  return [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin'].some((directory) => {
    try {
      accessSync(join(directory, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** For a test's `skip`: false where all programs are there. */
export function skipWithout(...programs: readonly string[]): string | false {
  const missing = programs.filter((program) => !isThere(program));
  if (missing.length === 0) return false;
  const wanted = [...new Set(missing.map((program) => packages[program] ?? program))];
  return `NOT TESTED against independent programs: ${missing.join(', ')} missing (apt-get install ${wanted.join(' ')})`;
}
