/** The Vmm driver over the machines of a rack: each command goes to the hand of the node that it names. */
import type { Vmm, VmmPlan, VmmReading } from '../port.ts';
import type { TrustedSide } from './trusted-boot.ts';

/** The agent's hand in what one machine boots; each as in `Vmm`. */
export interface VmmHand {
  read(): VmmReading;
  plan(plan: VmmPlan | undefined): void;
  throttle(maxRateBytes: number): void;
  /** Absent where nothing leads to the guest. */
  notify?(message: string): void;
  devirtualize(token: string): void;
  /** @param work ends when the trusted image's boot does, whatever happens */
  inTrusted(token: string, work: (trusted: TrustedSide, node: string) => Promise<void>): void;
  refresh(): void;
}

export function vmmOf(hands: ReadonlyMap<string, VmmHand>): Vmm {
  const of = (name: string): VmmHand => {
    const hand = hands.get(name);
    if (hand === undefined) throw new Error(`no node ${name} in this rack`);
    return hand;
  };
  return {
    read: (node) => of(node).read(),
    plan: (node, plan) => of(node).plan(plan),
    throttle: (node, maxRateBytes) => of(node).throttle(maxRateBytes),
    notify: (node, message) => of(node).notify?.(message),
    devirtualize: (node, token) => of(node).devirtualize(token),
    attest: (node, nonce, token) => of(node).inTrusted(token, (trusted, name) => trusted.attest(name, nonce)),
    wipe: (node, erase, token) => of(node).inTrusted(token, (trusted, name) => trusted.wipe(name, erase)),
    check: (node, token) => of(node).inTrusted(token, (trusted, name) => trusted.check(name)),
    refresh: (node) => of(node).refresh(),
  };
}
