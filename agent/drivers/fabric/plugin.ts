/**
 * The `Fabric` driver for everything that a site wires by a plug-in (docs/fabric-plugin.md): switch controllers, UFM, Slingshot.
 *
 * Invariants:
 * 1. A reading is what the plug-in read back from its switches last; while it cannot be asked, domains are Unknown.
 * 2. A change is Done when every port of the role was read back, whatever the plug-in says of it; and in Error when the plug-in says that it
 *    will not take effect any more, to the change or to its cancellation.
 * 3. A port has one change at a time. A change ends in bounded time: one that does not is cancelled, and of a plug-in that stays silent is
 *    given up; what it may still do shows in the readings.
 */
import type { Port } from '../../../controller/api/protocol.generated.ts';
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import type { Change, Egress, Fabric, FabricReading } from '../port.ts';
import type { Plugin, PluginPort } from './plugin-protocol.ts';

/** A port as the site's inventory has it; the plug-in knows it by node and name. */
export interface PluggedPort {
  readonly name: string;
  readonly role: Port['role'];
  readonly kind: Port['kind'];
  readonly address?: string;
}

export interface PluginFabricOptions {
  /** By node. */
  readonly nodes: ReadonlyMap<string, readonly PluggedPort[]>;
  readonly plugin: Plugin;
  readonly clock: Clock;
  readonly random: Random;
  readonly onChange?: (node: string) => void;
  /** Trouble with the plug-in in words; undefined when it is over. */
  readonly onTrouble?: (trouble: string | undefined) => void;
  /** Between two readings while nothing is asked; 10 s when absent. */
  readonly pollMs?: number;
  /** Between two while something is; 1 s when absent. */
  readonly pendingPollMs?: number;
  /** From asking until a change is cancelled; 4 minutes when absent. */
  readonly limitMs?: number;
  /** From there until a plug-in that does not answer is given up; 2 minutes when absent. */
  readonly silentMs?: number;
}

export interface PluginFabric extends Fabric {
  /** One listener, in place of `onChange` of the options. */
  listen(listener: (node: string) => void): void;
  close(): Promise<void>;
}

interface Asked {
  readonly node: string;
  readonly role: Port['role'];
  readonly domain: string;
  readonly egress: Egress;
  readonly token: string;
  /** Of the change at the plug-in; a repeated call under it begins nothing anew. */
  readonly id: string;
  readonly askedAt: number;
  begun: boolean;
  said: 'Pending' | 'Done';
  saidDoneAt: number | undefined;
  trouble: string | undefined;
}

/** From the plug-in's Done until the reading has to agree. */
const readBackMs = 15_000;
const jitter = 0.2;
/** A rack that is started or fenced as a whole is a hundred changes. */
const callsAtOnce = 8;

class PluginDriver implements PluginFabric {
  readonly #options: PluginFabricOptions;
  readonly #changes = new Map<string, Change>();
  readonly #asked = new Map<string, Asked>();
  #read = new Map<string, PluginPort>();
  #trouble: string | undefined;
  #listener: (node: string) => void;
  #looking: Promise<void> | undefined;
  #lookAgain = false;
  #cancelTimer = (): void => {};
  #closed = false;

  constructor(options: PluginFabricOptions) {
    this.#options = options;
    this.#listener = options.onChange ?? (() => {});
    this.#look();
  }

  #portsOf(node: string, role?: Port['role']): readonly PluggedPort[] {
    const ports = this.#options.nodes.get(node) ?? [];
    return role === undefined ? ports : ports.filter((port) => port.role === role);
  }

  read(node: string): FabricReading {
    const dataChange = this.#changes.get(`${node} Data`);
    const controlChange = this.#changes.get(`${node} Control`);
    const ports = this.#portsOf(node).map(({ name, role, kind, address }): Port => {
      const read = this.#read.get(`${node} ${name}`);
      const change = role === 'Data' ? dataChange : controlChange;
      const settled = change === undefined || change.status === 'Done';
      return {
        name,
        role,
        kind,
        ...(address === undefined ? {} : { address }),
        state: settled ? (read === undefined ? 'Unknown' : 'Ready') : change.status,
        domain: read?.domain ?? 'Unknown',
        ...(read === undefined || role !== 'Data' ? {} : { egress: read.egress ?? 'None' }),
      };
    });
    return {
      ports,
      ...(dataChange === undefined ? {} : { dataChange }),
      ...(controlChange === undefined ? {} : { controlChange }),
    };
  }

  set(node: string, role: Port['role'], domain: string, egress: Egress | undefined, token: string): void {
    const { clock, random } = this.#options;
    const key = `${node} ${role}`;
    const none = this.#portsOf(node, role).length === 0;
    const error = this.#closed ? 'the driver is closed' : `${node} has no ${role.toLowerCase()} port here`;
    this.#changes.set(key, this.#closed || none ? { token, status: 'Error', error } : { token, status: 'Pending' });
    clock.setTimer(0, () => this.#tell(node));
    if (this.#closed || none) return;
    this.#asked.set(key, {
      node,
      role,
      domain,
      egress: egress ?? 'None',
      token,
      id: random.uuid(),
      askedAt: clock.monotonic(),
      begun: false,
      said: 'Pending',
      saidDoneAt: undefined,
      trouble: undefined,
    });
    this.#look();
  }

  refresh(_node: string): void {
    this.#look();
  }

  listen(listener: (node: string) => void): void {
    this.#listener = listener;
  }

  #tell(node: string): void {
    if (!this.#closed) this.#listener(node);
  }

  #look(): void {
    if (this.#closed) return;
    this.#cancelTimer();
    if (this.#looking !== undefined) {
      this.#lookAgain = true;
      return;
    }
    // What is asked for in the same turn is sent before the next reading.
    this.#looking = Promise.resolve()
      .then(() => this.#lookNow())
      .finally(() => {
        this.#looking = undefined;
        if (this.#closed) return;
        const again = this.#lookAgain;
        this.#lookAgain = false;
        if (again) {
          this.#look();
          return;
        }
        const { clock, random, pollMs = 10_000, pendingPollMs = 1_000 } = this.#options;
        const restMs = (this.#asked.size > 0 ? pendingPollMs : pollMs) * (1 - jitter * random.next());
        this.#cancelTimer = clock.setTimer(restMs, () => this.#look());
      });
  }

  async #lookNow(): Promise<void> {
    const all = [...this.#asked.values()];
    for (let at = 0; at < all.length; at += callsAtOnce) {
      await Promise.all(all.slice(at, at + callsAtOnce).map((asked) => this.#advance(asked)));
    }
    try {
      const ports = await this.#options.plugin.ports();
      this.#settle(new Map(ports.map((port) => [`${port.node} ${port.port}`, port])));
      this.#report(undefined);
    } catch (error) {
      this.#settle(new Map());
      this.#report(error instanceof Error ? error.message : String(error));
    }
    for (const asked of [...this.#asked.values()]) this.#judge(asked);
  }

  #report(trouble: string | undefined): void {
    if (trouble !== this.#trouble) this.#options.onTrouble?.(trouble);
    this.#trouble = trouble;
  }

  #settle(read: Map<string, PluginPort>): void {
    const before = this.#read;
    this.#read = read;
    for (const node of this.#options.nodes.keys()) {
      const changed = this.#portsOf(node).some(({ name }) => {
        const [was, is] = [before.get(`${node} ${name}`), read.get(`${node} ${name}`)];
        return was?.domain !== is?.domain || was?.egress !== is?.egress;
      });
      if (changed) this.#tell(node);
    }
  }

  /** Begins the change at the plug-in, asks after it, or cancels it. */
  async #advance(asked: Asked): Promise<void> {
    const { clock, plugin, limitMs = 240_000 } = this.#options;
    const { id, node, role, domain, egress } = asked;
    if (asked.said === 'Done') return;
    const over = clock.monotonic() - asked.askedAt >= limitMs;
    try {
      const ports = this.#portsOf(node, role).map(({ name }) => name);
      const answer = over
        ? await plugin.change({ op: 'cancel', id })
        : await plugin.change(asked.begun ? { op: 'status', id } : { op: 'change', id, node, ports, domain, egress });
      if (answer.status === 'Error') {
        this.#end(asked, answer.error ?? 'the plug-in gives no reason');
      } else if (answer.status === 'Unknown') {
        // It never got the change, or lost it: under the same id it can be given again.
        if (over) this.#end(asked, asked.trouble ?? 'the plug-in does not know of the change');
        asked.begun = false;
      } else {
        asked.begun = true;
        asked.said = answer.status;
        if (answer.status === 'Done') asked.saidDoneAt = clock.monotonic();
      }
    } catch (error) {
      asked.trouble = error instanceof Error ? error.message : String(error);
    }
  }

  /** Ends a change by what was read. */
  #judge(asked: Asked): void {
    const { clock, limitMs = 240_000, silentMs = 120_000 } = this.#options;
    const { node, role, domain, egress, saidDoneAt } = asked;
    const now = clock.monotonic();
    const ports = this.#portsOf(node, role).map(({ name }) => this.#read.get(`${node} ${name}`));
    const there = ports.every(
      (port) => port?.domain === domain && (role !== 'Data' || isShared(domain) || (port.egress ?? 'None') === egress),
    );
    if (there && asked.said === 'Done') {
      this.#end(asked, undefined);
    } else if (saidDoneAt !== undefined && now - saidDoneAt >= readBackMs) {
      const domains = [...new Set(ports.map((port) => port?.domain ?? 'Unknown'))].join(', ');
      this.#end(asked, `the plug-in says that it is done, and reads back ${domains}`);
    } else if (now - asked.askedAt >= limitMs + silentMs) {
      this.#end(
        asked,
        `it was not ended, and may still take effect: ${asked.trouble ?? 'the plug-in goes on with it'}`,
      );
    }
  }

  #end(asked: Asked, error: string | undefined): void {
    const { node, role, token } = asked;
    const key = `${node} ${role}`;
    if (this.#asked.get(key) !== asked) return;
    this.#asked.delete(key);
    this.#changes.set(key, error === undefined ? { token, status: 'Done' } : { token, status: 'Error', error });
    this.#tell(node);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelTimer();
    await this.#looking;
    await this.#options.plugin.close();
  }
}

/** Domains of the operator, in which there is no egress. */
const isShared = (domain: string): boolean => ['quarantine', 'closed', 'provisioning'].includes(domain);

export function pluginFabric(options: PluginFabricOptions): PluginFabric {
  return new PluginDriver(options);
}
