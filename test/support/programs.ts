/** Programs of others that a test needs, and the Debian packages that hold them: where one is missing it is skipped loudly, an error with CI=true. */
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import process from 'node:process';
import type { TestOptions } from 'node:test';
import { counterpart } from './counterpart.ts';

const packages: Readonly<Record<string, string>> = {
  fsverity: 'fsverity',
  nbdinfo: 'libnbd-bin',
  nbdcopy: 'libnbd-bin',
  nbdkit: 'nbdkit',
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  aoecfg: 'aoetools',
  aoeping: 'aoetools',
  vblade: 'vblade',
  ip: 'iproute2',
  dnsmasq: 'dnsmasq-base',
  nft: 'nftables',
  'qemu-system-x86_64': 'qemu-system-x86 ipxe-qemu',
  mcopy: 'mtools',
  mke2fs: 'e2fsprogs',
  'mkfs.fat': 'dosfstools',
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

/** Options of a test that needs them. */
export function needs(...programs: readonly string[]): TestOptions {
  const missing = programs.filter((program) => !isThere(program));
  const wanted = [...new Set(missing.map((program) => packages[program] ?? program))];
  return counterpart(missing.join(' and '), missing.length === 0, `apt-get install ${wanted.join(' ')}`);
}

/** The same for a test that makes network namespaces. */
export function needsRoot(...programs: readonly string[]): TestOptions {
  const isRoot = process.getuid?.() === 0;
  return isRoot ? needs(...programs) : counterpart('root', false, 'run it as root, for network namespaces');
}
