/**
 * Whether the cache has an allocation as the server has it now: asked before a record is written that rests on its word.
 *
 * Caches are of different age. A leader that stood still, or whose watch brings nothing, may know a node's newest tenancy and an
 * allocation's word about an earlier one: what ended that must not end this.
 *
 * Invariants:
 * 1. An answer counts for those who asked before its request was sent; whoever asks meanwhile shares the next one.
 * 2. What the server answered is offered to the cache.
 */
import { nodeAllocations } from '../api/meta.ts';
import type { NodeAllocation } from '../api/types.generated.ts';
import { KubeError, type KubeReader, type ObjectKey } from '../kube/port.ts';
import { keyString, type Store } from '../kube/store.ts';

/** How long a cache is waited for that is behind the server, and does not take what that answered. */
const cacheBehindMs = 1_000;

export class OwnerWord {
  readonly #client: Pick<KubeReader, 'get'>;
  readonly #allocations: Store<NodeAllocation>;
  /** Requests that were sent, by the allocation's key, and those that follow them. */
  readonly #sent = new Map<string, Promise<unknown>>();
  readonly #next = new Map<string, Promise<string | undefined>>();

  constructor(client: Pick<KubeReader, 'get'>, allocations: Store<NodeAllocation>) {
    this.#client = client;
    this.#allocations = allocations;
  }

  /**
   * @returns undefined where the server has, or has not, the allocation just as the cache has it at the call; else in how many
   *   milliseconds to decide again
   * @throws KubeError when the server cannot be asked
   */
  async behindMs({ namespace = '', name }: ObjectKey): Promise<number | undefined> {
    const key = { namespace, name };
    const cached = this.#cached(key);
    const present = await this.#ask(key);
    if (present === cached) return undefined;
    return this.#cached(key) === present ? 0 : cacheBehindMs;
  }

  #cached(key: ObjectKey): string | undefined {
    return this.#allocations.get(key)?.metadata.resourceVersion;
  }

  #ask(key: ObjectKey): Promise<string | undefined> {
    const id = keyString(key);
    const sent = this.#sent.get(id);
    if (sent === undefined) return this.#send(key, id);
    const next =
      this.#next.get(id) ??
      sent.then(() => {
        this.#next.delete(id);
        return this.#send(key, id);
      });
    this.#next.set(id, next);
    return next;
  }

  #send(key: ObjectKey, id: string): Promise<string | undefined> {
    const answer = this.#version(key);
    const over = (): void => void this.#sent.delete(id);
    this.#sent.set(id, answer.then(over, over));
    return answer;
  }

  async #version(key: ObjectKey): Promise<string | undefined> {
    try {
      const present = await this.#client.get<NodeAllocation>(nodeAllocations, key);
      this.#allocations.noteWrite(present);
      return present.metadata.resourceVersion;
    } catch (error) {
      if (error instanceof KubeError && error.reason === 'NotFound') return undefined;
      throw error;
    }
  }
}
