/**
 * The `Fabric` driver for Linux bridges: nftables isolates their ports (rules.ts), and what it holds is read back.
 *
 * Invariants:
 * 1. A reading is what nft and ip listed after the newest change. Domain and egress of a port are read from the kernel's own
 *    elements, so that a driver without memory reads the same.
 * 2. Changes that are asked for at once go into the kernel in one transaction; another begins when it was read back.
 * 3. Rules that are not as this driver wrote them (a flushed table, an element that somebody added, a rule that changed) shut the
 *    ports they concern, which are then read back as `quarantine`: who asked for the domain sees that they left it, and asks again.
 *    A link that is not as it must be makes its port's domain Unknown until it is set right.
 * 4. The bridges learn no address from the ports: where each is comes from the layout. Frames to link-local groups teach a bridge
 *    without passing nftables, and a guest would draw its neighbours' frames to itself with them.
 * 5. An Error comes after the programs that were to make the change have ended: nothing follows.
 */
import type { Port } from '../../../controller/api/protocol.generated.ts';
import { type Clock, sleep } from '../../../controller/runtime/clock.ts';
import type { Change, Egress, Fabric, FabricReading } from '../port.ts';
import { type Kernel, type LinkState, type Links, linuxKernel } from './kernel.ts';
import { type BridgeLayout, checkLayout, type NodePort } from './layout.ts';
import { readListing } from './listing.ts';
import { assignMarks, isDomain, type Membership, membershipScript, tableScript } from './rules.ts';

export interface BridgeFabricOptions extends BridgeLayout {
  /** Name of the nftables table, which is this driver's alone. */
  readonly table: string;
  /** Network namespace of the bridges; absent: that of this process. */
  readonly netns?: string;
  readonly clock: Clock;
  /** Time between two looks, in case that a change made no event; 2 s when absent. */
  readonly pollMs?: number;
  /** Called after a reading of the node changed. */
  readonly onChange?: (node: string) => void;
  /** Faults that no change shows, and drift: something else changed the rules. */
  readonly onError?: (error: Error) => void;
  /** In place of the machine's own, for tests. */
  readonly kernel?: Kernel;
}

export interface BridgeFabric extends Fabric {
  /** One listener, in place of `onChange` of the options. */
  listen(listener: (node: string) => void): void;
  /** Resolves after the first look at the kernel, or rejects with why it failed. */
  readonly ready: Promise<void>;
  /** The rules stay in force. */
  close(): Promise<void>;
}

interface Asked {
  readonly node: string;
  readonly role: Port['role'];
  readonly membership: Membership;
  readonly token: string;
}

/** A change that cannot be read back is given up after this time. */
const readBackLimitMs = 30_000;
const defaultPollMs = 2_000;
const retryMs = 500;
const tablePattern = /^[A-Za-z][A-Za-z0-9_]{0,30}$/;
const shut: Membership = { domain: 'quarantine', egress: 'None' };

const sameMembership = (a: Membership | undefined, b: Membership | undefined): boolean =>
  a?.domain === b?.domain && a?.egress === b?.egress;
/** A port that is closed has no link; and of none does the bridge believe where an address is. */
const linkFits = (link: LinkState | undefined, domain: string): boolean =>
  link === undefined || !(link.learning || (domain === 'closed' && link.up));
const asError = (error: unknown): Error => (error instanceof Error ? error : new Error(String(error)));

class BridgeDriver implements BridgeFabric {
  readonly ready: Promise<void>;
  readonly #options: BridgeFabricOptions;
  readonly #kernel: Kernel;
  readonly #ports: readonly NodePort[];
  readonly #byNode = new Map<string, readonly NodePort[]>();
  readonly #changes = new Map<string, Change>();
  /** By interface, as read back; undefined while it cannot be read. */
  #read: ReadonlyMap<string, Membership> | undefined;
  /** What the rules alone say, also of a port whose link is not as it must be and so is not in `#read`. */
  #ruled: ReadonlyMap<string, Membership> = new Map();
  #links: Links = new Map();
  #marks: ReadonlyMap<string, number> = new Map();
  /** The listing of the rules as this driver wrote them. */
  #rules: string | undefined;
  #tookOver = false;
  #asked: Asked[] = [];
  #lookWanted = false;
  #working: Promise<void> | undefined;
  #cancelPoll = (): void => {};
  #watch: { close(): void } | undefined;
  #listener: (node: string) => void;
  #closed = false;

  constructor(options: BridgeFabricOptions) {
    if (!tablePattern.test(options.table)) throw new Error(`"${options.table}" is no name for a table of nftables`);
    this.#options = options;
    this.#kernel = options.kernel ?? linuxKernel(options);
    this.#ports = checkLayout(options);
    for (const node of options.nodes.keys()) {
      this.#byNode.set(
        node,
        this.#ports.filter((port) => port.node === node),
      );
    }
    this.#listener = options.onChange ?? (() => {});
    this.ready = this.#begin();
    // Who does not wait for it sees the failure in the readings, which stay Unknown, and through onError.
    this.ready.catch(() => {});
  }

  async #begin(): Promise<void> {
    this.#watch = this.#kernel.watch(() => this.#look());
    this.#working = this.#takeOver();
    try {
      await this.#working;
    } finally {
      this.#working = undefined;
      this.#poll();
      this.#wake();
    }
  }

  /** What earlier processes wrote and is whole stays in force; all else is shut. */
  async #takeOver(): Promise<void> {
    const [listed, links] = await Promise.all([this.#kernel.listRules(this.#options.table), this.#kernel.links()]);
    this.#links = links;
    const found = listed === undefined ? undefined : readListing(listed);
    await this.#write(found?.memberships ?? new Map(), found?.marks ?? new Map());
    this.#tookOver = true;
    await this.#readBack();
  }

  /** @returns whether links were set, and so must be read again */
  async #write(memberships: ReadonlyMap<string, Membership>, marks: ReadonlyMap<string, number>): Promise<boolean> {
    const { table } = this.#options;
    const all = new Map(this.#ports.map(({ ifname }) => [ifname, memberships.get(ifname) ?? shut]));
    const assigned = assignMarks(
      [...all.values()].map(({ domain }) => domain),
      marks,
    );
    if (this.#rules === undefined) {
      await this.#kernel.applyRules(tableScript(table, this.#options, this.#ports, all, assigned));
      const listed = await this.#kernel.listRules(table);
      if (listed !== undefined) this.#rules = readListing(listed).rules;
    } else {
      await this.#kernel.applyRules(membershipScript(table, all, assigned));
    }
    const wrong = this.#ports
      .map(({ ifname, address }) => ({ ifname, address, up: all.get(ifname)?.domain !== 'closed' }))
      .filter(({ ifname, up }) => {
        const link = this.#links.get(ifname);
        return link !== undefined && (link.up !== up || link.learning);
      });
    if (wrong.length > 0) await this.#kernel.setLinks(wrong);
    return wrong.length > 0;
  }

  /**
   * @param linksToo false where the links are as they were at the last look
   * @returns whether all was as this driver wrote it
   */
  async #readBack(linksToo = true): Promise<boolean> {
    let whole = true;
    let read: ReadonlyMap<string, Membership> = new Map();
    let ruled = read;
    try {
      const [listed, links] = await Promise.all([
        this.#kernel.listRules(this.#options.table),
        linksToo ? this.#kernel.links() : this.#links,
      ]);
      this.#links = links;
      const listing = listed === undefined ? undefined : readListing(listed);
      whole = listing !== undefined && listing.rules === this.#rules;
      if (listing !== undefined && whole) {
        this.#marks = listing.marks;
        ruled = listing.memberships;
        read = new Map([...ruled].filter(([ifname, { domain }]) => linkFits(links.get(ifname), domain)));
      }
      this.#ruled = ruled;
      whole &&= this.#ports.every(({ ifname }) => read.has(ifname));
    } catch (error) {
      this.#settle(undefined);
      throw error;
    }
    this.#settle(read);
    return whole;
  }

  #settle(read: ReadonlyMap<string, Membership> | undefined): void {
    const before = this.#read;
    this.#read = read;
    for (const [node, ports] of this.#byNode) {
      if (ports.some(({ ifname }) => !sameMembership(before?.get(ifname), read?.get(ifname)))) this.#tell(node);
    }
  }

  #tell(node: string): void {
    if (!this.#closed) this.#listener(node);
  }

  #look(): void {
    this.#lookWanted = true;
    this.#wake();
  }

  #poll(): void {
    if (this.#closed) return;
    this.#cancelPoll = this.#options.clock.setTimer(this.#options.pollMs ?? defaultPollMs, () => {
      this.#look();
      this.#poll();
    });
  }

  #wake(): void {
    if (this.#closed || this.#working !== undefined || (this.#asked.length === 0 && !this.#lookWanted)) return;
    // What is asked for in the same turn goes into the same transaction.
    this.#working = Promise.resolve()
      .then(() => this.#work())
      .catch((error: unknown) => this.#options.onError?.(asError(error)))
      .finally(() => {
        this.#working = undefined;
        this.#wake();
      });
  }

  async #work(): Promise<void> {
    const asked = this.#asked;
    this.#asked = [];
    this.#lookWanted = false;
    if (asked.length > 0) {
      await this.#change(asked);
      return;
    }
    if (!this.#tookOver) await this.#takeOver();
    if (await this.#readBack()) return;
    this.#options.onError?.(new Error(`something else changed table ${this.#options.table}: what it changed is shut`));
    await this.#repair();
  }

  async #repair(): Promise<void> {
    this.#rules = undefined;
    await this.#write(this.#ruled, this.#marks);
    await this.#readBack();
  }

  async #change(asked: readonly Asked[]): Promise<void> {
    const { clock } = this.#options;
    const until = clock.monotonic() + readBackLimitMs;
    let fault: Error | undefined;
    let whole = false;
    let linksToo = true;
    // The second time for a table that somebody took away or changed since the last look.
    for (let attempt = 0; attempt < 2 && !whole; attempt++) {
      try {
        if (!this.#tookOver) await this.#takeOver();
        const wanted = new Map(this.#ruled);
        for (const { node, role, membership } of asked) {
          for (const { ifname } of this.#portsOf(node, role)) wanted.set(ifname, membership);
        }
        linksToo = await this.#write(wanted, this.#marks);
      } catch (error) {
        fault = asError(error);
      }
      whole = await this.#readBackUntil(until, linksToo || fault !== undefined);
      if (!whole) this.#rules = undefined;
    }
    for (const one of asked) this.#end(one, fault);
    if (fault !== undefined || !whole) {
      this.#options.onError?.(fault ?? new Error(`something else keeps changing table ${this.#options.table}`));
    }
  }

  /** Looks until the kernel can be read. @returns whether all was as this driver wrote it */
  async #readBackUntil(until: number, linksToo: boolean): Promise<boolean> {
    const { clock, onError } = this.#options;
    for (;;) {
      try {
        return await this.#readBack(linksToo);
      } catch (error) {
        onError?.(asError(error));
        if (this.#closed || clock.monotonic() >= until) return false;
        await sleep(clock, retryMs);
      }
    }
  }

  #portsOf(node: string, role: Port['role']): NodePort[] {
    return (this.#byNode.get(node) ?? []).filter((port) => port.role === role);
  }

  #end({ node, role, membership, token }: Asked, fault: Error | undefined): void {
    const stray = this.#portsOf(node, role).find(({ ifname }) => !sameMembership(this.#read?.get(ifname), membership));
    const change: Change =
      stray === undefined
        ? { token, status: 'Done' }
        : {
            token,
            status: 'Error',
            error: `${stray.ifname} was not read back in ${membership.domain}: ${fault?.message ?? 'something else changed it'}`,
          };
    this.#changes.set(`${node} ${role}`, change);
    this.#tell(node);
  }

  read(node: string): FabricReading {
    const dataChange = this.#changes.get(`${node} Data`);
    const controlChange = this.#changes.get(`${node} Control`);
    const ports = (this.#byNode.get(node) ?? []).map(({ name, role, kind, address, ifname }): Port => {
      const membership = this.#read?.get(ifname);
      const change = role === 'Data' ? dataChange : controlChange;
      const settled = change === undefined || change.status === 'Done';
      return {
        name,
        role,
        kind,
        address,
        state: settled ? (membership === undefined ? 'Unknown' : 'Ready') : change.status,
        domain: membership?.domain ?? 'Unknown',
        ...(role === 'Data' && membership !== undefined ? { egress: membership.egress } : {}),
      };
    });
    return {
      ports,
      ...(dataChange === undefined ? {} : { dataChange }),
      ...(controlChange === undefined ? {} : { controlChange }),
    };
  }

  set(node: string, role: Port['role'], domain: string, egress: Egress | undefined, token: string): void {
    const membership: Membership = { domain, egress: isShared(domain) ? 'None' : (egress ?? 'None') };
    const error = this.#refusal(node, role, membership);
    this.#changes.set(
      `${node} ${role}`,
      error === undefined ? { token, status: 'Pending' } : { token, status: 'Error', error },
    );
    // The listener is called outside of any command.
    this.#options.clock.setTimer(0, () => this.#tell(node));
    if (error !== undefined) return;
    this.#asked.push({ node, role, membership, token });
    this.#wake();
  }

  /** Why it cannot be, as a sentence. */
  #refusal(node: string, role: Port['role'], { domain, egress }: Membership): string | undefined {
    if (this.#closed) return 'the driver is closed';
    if (!isDomain(domain)) return `"${domain.slice(0, 40)}" is no name for a domain`;
    const ports = this.#portsOf(node, role);
    if (ports.length === 0) return `${node} has no ${role.toLowerCase()} port here`;
    if (egress === 'None') return undefined;
    if (this.#options.gateway === undefined) return `egress ${egress} needs a gateway, and the layout has none`;
    const unbound = ports.find(({ ipv4 }) => ipv4 === undefined);
    return unbound && `egress ${egress} needs an IPv4 address of ${unbound.name}, and the layout has none`;
  }

  refresh(_node: string): void {
    this.#look();
  }

  listen(listener: (node: string) => void): void {
    this.#listener = listener;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelPoll();
    this.#watch?.close();
    await this.#working?.catch(() => {});
  }
}

/** Domains of the operator, in which every node is alone. */
const isShared = (domain: string): boolean => ['quarantine', 'closed', 'provisioning'].includes(domain);

/** @throws Error when the layout or the table's name cannot be */
export function bridgeFabric(options: BridgeFabricOptions): BridgeFabric {
  return new BridgeDriver(options);
}
