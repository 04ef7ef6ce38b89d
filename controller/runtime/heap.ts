/**
 * A binary heap whose members can be taken out or moved wherever they stand, for queues and clocks that change their mind.
 *
 * Invariants:
 * 1. `peek()` is the member that no other member goes before, by the `before` given at construction.
 * 2. A member's `heapIndex` is its place in this heap, or -1 while it is in none; nobody else writes it.
 * Push, pop, remove and move are O(log n).
 */

export interface HeapMember {
  heapIndex: number;
}

export class Heap<T extends HeapMember> {
  readonly #members: T[] = [];
  readonly #before: (a: T, b: T) => boolean;

  constructor(before: (a: T, b: T) => boolean) {
    this.#before = before;
  }

  get size(): number {
    return this.#members.length;
  }

  peek(): T | undefined {
    return this.#members[0];
  }

  push(member: T): void {
    this.#members.push(member);
    this.#raise(this.#members.length - 1, member);
  }

  pop(): T | undefined {
    const first = this.#members[0];
    if (first !== undefined) this.remove(first);
    return first;
  }

  /** Takes `member` out; a member of no heap is left as it is. */
  remove(member: T): void {
    const hole = member.heapIndex;
    if (hole < 0) return;
    const last = this.#members.pop();
    member.heapIndex = -1;
    if (last === undefined || last === member) return;
    this.#raise(hole, last);
    this.#sink(last.heapIndex, last);
  }

  /** Restores the order after what `before` reads of `member` has changed. */
  moved(member: T): void {
    if (member.heapIndex < 0) return;
    this.#raise(member.heapIndex, member);
    this.#sink(member.heapIndex, member);
  }

  #place(index: number, member: T): void {
    this.#members[index] = member;
    member.heapIndex = index;
  }

  #raise(start: number, member: T): void {
    let index = start;
    while (index > 0) {
      const parentIndex = (index - 1) >> 1;
      const parent = this.#members[parentIndex];
      if (parent === undefined || !this.#before(member, parent)) break;
      this.#place(index, parent);
      index = parentIndex;
    }
    this.#place(index, member);
  }

  #sink(start: number, member: T): void {
    let index = start;
    for (;;) {
      const left = this.#members[2 * index + 1];
      const right = this.#members[2 * index + 2];
      if (left === undefined) break;
      const child = right !== undefined && this.#before(right, left) ? right : left;
      if (!this.#before(child, member)) break;
      const childIndex = child.heapIndex;
      this.#place(index, child);
      index = childIndex;
    }
    this.#place(index, member);
  }
}
