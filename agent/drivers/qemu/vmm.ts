/** The Vmm driver over the machines of a rack of the lab: each command goes to the node that it names. */
import type { Vmm } from '../port.ts';
import type { BootedNode } from './booted.ts';

export function labVmm(nodes: ReadonlyMap<string, BootedNode>): Vmm {
  const of = (name: string): BootedNode => {
    const node = nodes.get(name);
    if (node === undefined) throw new Error(`no node ${name} in this rack`);
    return node;
  };
  return {
    read: (node) => of(node).read(),
    plan: (node, plan) => of(node).plan(plan),
    throttle: (node, maxRateBytes) => of(node).throttle(maxRateBytes),
    // There is no channel to a guest of the lab but the ACPI button, which drain presses.
    notify: () => {},
    devirtualize: (node, token) => of(node).devirtualize(token),
    attest: (node, nonce, token) => of(node).inTrusted(token, (trusted, name) => trusted.attest(name, nonce)),
    wipe: (node, erase, token) => of(node).inTrusted(token, (trusted, name) => trusted.wipe(name, erase)),
    check: (node, token) => of(node).inTrusted(token, (trusted, name) => trusted.check(name)),
    refresh: (node) => of(node).refresh(),
  };
}
