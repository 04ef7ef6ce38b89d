/** What the lab's tests need of the machine: programs of Debian and the rights to make network namespaces. */
import { spawnSync } from 'node:child_process';
import process from 'node:process';
import type { TestOptions } from 'node:test';
import { counterpart } from '../support/counterpart.ts';

const programs: readonly (readonly [program: string, packageName: string])[] = [
  ['qemu-system-x86_64', 'qemu-system-x86 and ipxe-qemu'],
  ['qemu-img', 'qemu-utils'],
  ['dnsmasq', 'dnsmasq-base'],
  ['nft', 'nftables'],
  ['ip', 'iproute2'],
  ['dpkg', 'dpkg'],
];

const isThere = (program: string): boolean =>
  (spawnSync(program, ['--version']).error as NodeJS.ErrnoException | undefined)?.code !== 'ENOENT';

/** Options for `test`: skipped loudly where something is missing, an error with CI=true. @param more programs of packages of their name */
export function labOptions(timeoutSeconds: number, ...more: readonly string[]): TestOptions {
  const all = [...programs, ...more.map((program) => [program, program] as const)];
  const missing = all.filter(([program]) => !isThere(program)).map(([, name]) => name);
  const isRoot = process.getuid?.() === 0;
  const remedy = [
    ...(missing.length > 0 ? [`install ${missing.join(', ')}`] : []),
    ...(isRoot ? [] : ['run it as root, for network namespaces']),
  ].join(' and ');
  return { ...counterpart('the lab', missing.length === 0 && isRoot, remedy), timeout: timeoutSeconds * 1000 };
}
