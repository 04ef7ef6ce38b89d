/**
 * What every `Fabric` driver does, whatever is behind it: the simulated room, a Linux bridge, a plug-in.
 */
import assert from 'node:assert/strict';
import { describe, type TestContext, type TestOptions, test } from 'node:test';
import type { Change, Egress, Fabric } from '../../agent/drivers/port.ts';
import { Wakers } from '../support/wakers.ts';

/** A driver over nodes `n0` and `n1`, each with two data ports and a control port, and handles on what is behind it. */
export interface FabricRig {
  readonly fabric: Fabric;
  /** Calls it after each reading that changed. */
  listen(listener: (node: string) => void): void;
  /** Another driver over the same switches, without the memory of the first, which is closed. */
  restart?(): Promise<FabricRig>;
  /** Somebody else moves a data port of the node at the switch, to the domain or to nowhere. */
  drift?(node: string, domain: string): Promise<void> | void;
  /** The next change comes to nothing. */
  failNext?(node: string): Promise<void> | void;
  close(): Promise<void> | void;
}

const roles = ['Data', 'Control'] as const;

class Watched {
  readonly rig: FabricRig;
  readonly told: string[] = [];
  readonly #wakers = new Wakers();
  #tokens = 0;
  #inCommand = false;

  constructor(rig: FabricRig) {
    this.rig = rig;
    rig.listen((node) => {
      assert.equal(this.#inCommand, false, 'the listener was called within a command');
      this.told.push(node);
      this.#wakers.wake();
    });
  }

  until(what: string, holds: () => boolean): Promise<void> {
    return this.#wakers.until(what, holds);
  }

  change(node: string, role: (typeof roles)[number]): Change | undefined {
    const { dataChange, controlChange } = this.rig.fabric.read(node);
    return role === 'Data' ? dataChange : controlChange;
  }

  domains(node: string, role: (typeof roles)[number]): string[] {
    return this.rig.fabric
      .read(node)
      .ports.filter((port) => port.role === role)
      .map(({ domain }) => domain);
  }

  ask(node: string, role: (typeof roles)[number], domain: string, egress?: Egress): string {
    const token = `token${++this.#tokens}`;
    this.#inCommand = true;
    this.rig.fabric.set(node, role, domain, egress, token);
    this.#inCommand = false;
    assert.deepEqual(this.change(node, role), { token, status: 'Pending' }, 'a command shows at once, as Pending');
    return token;
  }

  async put(node: string, role: (typeof roles)[number], domain: string, egress?: Egress): Promise<Change> {
    const token = this.ask(node, role, domain, egress);
    await this.until(`${node} in ${domain}`, () => this.change(node, role)?.status !== 'Pending');
    assert.equal(this.change(node, role)?.token, token);
    return this.change(node, role) ?? assert.fail();
  }
}

export function fabricContract(
  name: string,
  open: (t: TestContext) => Promise<FabricRig>,
  options: TestOptions = {},
): void {
  const opened = async (t: TestContext): Promise<Watched> => {
    const rig = await open(t);
    t.after(() => rig.close());
    return new Watched(rig);
  };

  describe(`the fabric contract: ${name}`, options, () => {
    test('every port of the role goes into the domain alone, and is read there', async (t) => {
      const it = await opened(t);
      assert.equal((await it.put('n0', 'Data', 'allocation/a', 'None')).status, 'Done');
      assert.deepEqual(it.domains('n0', 'Data'), ['allocation/a', 'allocation/a']);
      assert.ok(it.domains('n0', 'Control').every((domain) => domain !== 'allocation/a'));
      assert.ok(it.domains('n1', 'Data').every((domain) => domain !== 'allocation/a'));
      const states = it.rig.fabric
        .read('n0')
        .ports.filter(({ role }) => role === 'Data')
        .map(({ state }) => state);
      assert.deepEqual(states, ['Ready', 'Ready']);
      assert.ok(it.told.includes('n0'));
    });

    test('a port is shown as pending until its change was read back', async (t) => {
      const it = await opened(t);
      it.ask('n0', 'Control', 'provisioning');
      const shown = it.rig.fabric
        .read('n0')
        .ports.filter(({ role }) => role === 'Control')
        .map(({ state }) => state);
      assert.deepEqual(shown, ['Pending']);
      await it.until('the end', () => it.change('n0', 'Control')?.status === 'Done');
      assert.deepEqual(it.domains('n0', 'Control'), ['provisioning']);
    });

    test('egress is read back with the domain', async (t) => {
      const it = await opened(t);
      for (const egress of ['Internet', 'Shared', 'None'] as const) {
        assert.equal((await it.put('n1', 'Data', 'allocation/b', egress)).status, 'Done');
        const ports = it.rig.fabric.read('n1').ports.filter(({ role }) => role === 'Data');
        assert.deepEqual(
          ports.map((port) => port.egress),
          [egress, egress],
        );
      }
    });

    test('many nodes and roles at once, each to its own end', async (t) => {
      const it = await opened(t);
      for (const node of ['n0', 'n1']) {
        it.ask(node, 'Data', `allocation/${node}`, 'None');
        it.ask(node, 'Control', 'provisioning');
      }
      const done = (): boolean =>
        ['n0', 'n1'].every((node) => roles.every((role) => it.change(node, role)?.status === 'Done'));
      await it.until('all ends', done);
      assert.deepEqual(it.domains('n0', 'Data'), ['allocation/n0', 'allocation/n0']);
      assert.deepEqual(it.domains('n1', 'Data'), ['allocation/n1', 'allocation/n1']);
      for (const domain of ['quarantine', 'closed']) {
        await it.put('n0', 'Data', domain, 'None');
        assert.deepEqual(it.domains('n0', 'Data'), [domain, domain]);
      }
    });

    test('what somebody else changes at the switch is read without asking', async (t) => {
      const it = await opened(t);
      if (it.rig.drift === undefined) return t.skip('nobody else can change this fabric');
      await it.put('n0', 'Data', 'allocation/a', 'None');
      await it.rig.drift('n0', 'allocation/other');
      await it.until('the drift', () => it.domains('n0', 'Data').some((domain) => domain !== 'allocation/a'));
      assert.equal((await it.put('n0', 'Data', 'allocation/a', 'None')).status, 'Done');
      assert.deepEqual(it.domains('n0', 'Data'), ['allocation/a', 'allocation/a']);
    });

    test('a change that comes to nothing ends in a sentence, with the ports where they were', async (t) => {
      const it = await opened(t);
      if (it.rig.failNext === undefined) return t.skip('this fabric cannot be made to fail');
      await it.put('n0', 'Data', 'allocation/a', 'None');
      await it.rig.failNext('n0');
      const change = await it.put('n0', 'Data', 'allocation/b', 'None');
      assert.equal(change.status, 'Error');
      assert.ok((change.error ?? '').length > 10, change.error);
      await it.until('the reading', () => it.domains('n0', 'Data').every((domain) => domain === 'allocation/a'));
      assert.equal((await it.put('n0', 'Data', 'allocation/b', 'None')).status, 'Done');
    });

    test('a driver that lost its memory shows no change and reads the same', async (t) => {
      const it = await opened(t);
      if (it.rig.restart === undefined) return t.skip('this fabric lives in its driver');
      await it.put('n0', 'Data', 'allocation/a', 'Shared');
      await it.put('n0', 'Control', 'provisioning');
      const before = it.rig.fabric.read('n0').ports;
      const again = new Watched(await it.rig.restart());
      t.after(() => again.rig.close());
      assert.equal(again.change('n0', 'Data'), undefined);
      await again.until('a reading', () => again.domains('n0', 'Data').every((domain) => domain !== 'Unknown'));
      assert.deepEqual(again.rig.fabric.read('n0').ports, before);
      assert.equal((await again.put('n0', 'Data', 'quarantine', 'None')).status, 'Done');
    });
  });
}
