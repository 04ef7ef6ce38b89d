/**
 * Tests against an independent counterpart (kubectl, git, a real kube-apiserver) that may be absent on this machine.
 *
 * Invariant: an absent counterpart is never silent. On a person's machine the test is skipped and says so on stderr; with CI=true
 * it fails, except for those in `mayBeAbsentInCi`.
 */
import process from 'node:process';
import type { TestOptions } from 'node:test';

/** Nothing in Debian or npm provides a real API server: only KUBEBUILDER_ASSETS or a kubeconfig does. */
const mayBeAbsentInCi = new Set(['kube-apiserver']);

const announced = new Set<string>();

/**
 * Options for `test` or `describe`: `describe('...', counterpart('kubectl', kubectl !== undefined), () => ...)`.
 * @param available whether it was found.
 * @param remedy what to install or set, as a sentence without its full stop.
 * @throws Error when it is absent, CI=true, and a CI run must have it.
 */
export function counterpart(name: string, available: boolean, remedy = `install ${name}`): TestOptions {
  if (available) return {};
  const reason = `${name} is absent: ${remedy}`;
  if (process.env.CI === 'true' && !mayBeAbsentInCi.has(name)) throw new Error(`${reason} (CI=true: not skipped)`);
  if (!announced.has(name)) process.stderr.write(`\n*** SKIPPED, ${reason} ***\n\n`);
  announced.add(name);
  return { skip: reason };
}
