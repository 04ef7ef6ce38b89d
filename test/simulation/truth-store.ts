/**
 * The store of a simulated rack that hands every event of the machines to whoever judges, in the order in which they happened.
 */
import type { RackStore, RoomEvent } from '../../agent/drivers/simulated/store.ts';

export class TruthStore implements RackStore {
  readonly durable = false;
  readonly #rack: string;
  readonly #onEvent: (rack: string, event: RoomEvent) => void;

  constructor(rack: string, onEvent: (rack: string, event: RoomEvent) => void) {
    this.#rack = rack;
    this.#onEvent = onEvent;
  }

  load(): ReturnType<RackStore['load']> {
    return { machines: [], nowMs: 0 };
  }

  save(_machines: Iterable<unknown>, _nowMs: number, events: readonly RoomEvent[]): void {
    for (const event of events) this.#onEvent(this.#rack, event);
  }

  history(): RoomEvent[] {
    return [];
  }

  close(): void {}
}
