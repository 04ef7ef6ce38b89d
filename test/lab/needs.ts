/** What the lab's tests need of the machine: programs of Debian and the rights to make network namespaces. */
import type { TestOptions } from 'node:test';
import { needsRoot } from '../support/programs.ts';

const programs = ['qemu-system-x86_64', 'qemu-img', 'dnsmasq', 'nft', 'ip', 'dpkg'] as const;

/** Options for `test`: skipped loudly where something is missing, an error with CI=true. @param more programs besides QEMU's and those of networks */
export const labOptions = (timeoutSeconds: number, ...more: readonly string[]): TestOptions => ({
  ...needsRoot(...programs, ...more),
  timeout: timeoutSeconds * 1000,
});
