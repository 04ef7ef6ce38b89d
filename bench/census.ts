/**
 * Counts nodes by state as the API server tells it to anybody who watches: one observer besides the operator, whose cost at the
 * server is part of what is measured.
 */
import { physicalNodes } from '../controller/api/meta.ts';
import type { PhysicalNode } from '../controller/api/types.generated.ts';
import { startInformer } from '../controller/kube/informer.ts';
import type { KubeClient } from '../controller/kube/port.ts';
import { systemClock } from '../controller/runtime/clock.ts';
import { silentLogger } from '../controller/runtime/log.ts';
import { systemRandom } from '../controller/runtime/random.ts';

export class Census {
  readonly #states = new Map<string, string>();
  readonly #counts = new Map<string, number>();
  readonly #waiting = new Set<{ readonly state: string; readonly count: number; readonly resolve: () => void }>();
  readonly #informer: { stop(): Promise<void> };

  constructor(client: KubeClient) {
    const see = (node: PhysicalNode): void => this.#set(node.metadata.name, node.status?.state ?? 'none');
    this.#informer = startInformer<PhysicalNode>({
      client,
      gvk: physicalNodes,
      writer: {
        beginList: () => {},
        addPage: (items) => items.forEach(see),
        endList: () => {},
        apply: see,
        remove: (node) => this.#set(node.metadata.name, undefined),
        progress: () => {},
      },
      clock: systemClock,
      random: systemRandom,
      log: silentLogger,
    });
  }

  count(state: string): number {
    return this.#counts.get(state) ?? 0;
  }

  /** For messages: `Available 60, Wiping 4`. */
  describe(): string {
    const shown = [...this.#counts].filter(([, count]) => count > 0).map(([state, count]) => `${state} ${count}`);
    return shown.length === 0 ? 'no nodes' : shown.join(', ');
  }

  /** Resolves once exactly so many nodes are in the state. */
  reach(state: string, count: number): Promise<void> {
    if (this.count(state) === count) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.add({ state, count, resolve }));
  }

  stop(): Promise<void> {
    return this.#informer.stop();
  }

  #set(name: string, state: string | undefined): void {
    const old = this.#states.get(name);
    if (old === state) return;
    if (old !== undefined) this.#counts.set(old, this.count(old) - 1);
    if (state === undefined) this.#states.delete(name);
    else {
      this.#states.set(name, state);
      this.#counts.set(state, this.count(state) + 1);
    }
    for (const wait of this.#waiting) {
      if (this.count(wait.state) !== wait.count) continue;
      this.#waiting.delete(wait);
      wait.resolve();
    }
  }
}
