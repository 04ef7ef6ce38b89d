/**
 * Whatever it is told, in whatever order, and whatever fails meanwhile: judged by what the machines did, not by what the agent says.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { AgentRoom, enrolment, environment, steps, type TestStep, tenancy } from '../support/agent-room.ts';

type Action =
  | { readonly do: 'give'; readonly step: TestStep; readonly epochOffset: number; readonly domain?: string }
  | { readonly do: 'pass'; readonly ms: number }
  | { readonly do: 'restart' | 'reset' | 'cut' | 'power' }
  | { readonly do: 'fail'; readonly what: 'power' | 'fabric' | 'vmmLoad' | 'wipe' | 'attest' | 'devirtualize' };

const tenants = [
  { domain: 'alloc-1', uid: 'uid-1' },
  { domain: 'alloc-2', uid: 'uid-2' },
] as const;

const stepArbitrary: fc.Arbitrary<TestStep> = fc.constantFrom<TestStep>(
  ...tenants.flatMap(({ domain, uid }) => [steps.isolate(domain, uid), steps.reimage(environment(), uid)]),
  ...tenants.map(({ uid }) => steps.reimage(environment('r2'), uid)),
  steps.prepare,
  steps.commit,
  steps.drain(60),
  ...enrolment,
  ...enrolment,
  steps.off,
  steps.on,
  steps.inspect,
  steps.throttle(50e6),
);

const actionArbitrary: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({
      do: fc.constant('give' as const),
      step: stepArbitrary,
      // Mostly the epoch in force, often the next, sometimes an old one.
      epochOffset: fc.constantFrom(0, 0, 0, 0, 1, 1, -1),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({ do: fc.constant('pass' as const), ms: fc.constantFrom(0, 500, 5_000, 60_000, 300_000) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constantFrom('restart' as const, 'reset' as const, 'cut' as const, 'power' as const),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('fail' as const),
      what: fc.constantFrom('power', 'fabric', 'vmmLoad', 'wipe', 'attest', 'devirtualize'),
    }) as fc.Arbitrary<Action>,
  },
);

/** The begin of a tenancy, disturbed: random verbs alone rarely come as far. */
const guidedArbitrary: fc.Arbitrary<Action[]> = fc
  .record({
    tenant: fc.constantFrom(...tenants),
    fault: fc.constantFrom<Action[]>([], [{ do: 'fail', what: 'fabric' }], [{ do: 'fail', what: 'vmmLoad' }]),
    ms: fc.constantFrom(0, 500, 5_000),
  })
  .map(({ tenant: { domain, uid }, fault, ms }) => [
    ...fault,
    { do: 'give', step: steps.isolate(domain, uid), epochOffset: 1 },
    { do: 'pass', ms },
    { do: 'give', step: steps.reimage(environment(), uid), epochOffset: 0 },
    { do: 'pass', ms: 300_000 },
  ]);

const actionsArbitrary = fc
  .array(
    fc.oneof(
      { weight: 9, arbitrary: actionArbitrary.map((action) => [action]) },
      { weight: 1, arbitrary: guidedArbitrary },
    ),
    {
      maxLength: 40,
    },
  )
  .map((parts) => parts.flat());

/** Sequences that lead somewhere, for chance to disturb: random verbs alone rarely come as far as a guest. */
const prefixes: readonly (readonly (readonly [TestStep, number])[])[] = [
  [],
  enrolment.map((step) => [step, 1] as const),
  [...enrolment.map((step) => [step, 1] as const), ...tenancy.slice(0, 2).map((step) => [step, 2] as const)],
  [...enrolment.map((step) => [step, 1] as const), ...tenancy.map((step) => [step, 2] as const)],
];

/** What was accepted, kept by the test alone. A tenancy is all epochs between two clean machines. */
class Judge {
  readonly #room: AgentRoom;
  #judged = 0;
  /** Of the tenancy in force: an allocation may be adopted by another, which then owns what the first one had. */
  #domains = new Set<string>();
  #allocation = '';
  #wipedSinceGuest = 0;
  #highestEpoch = 0;
  #lastTenancy = 0;
  #lastEnd = 0;
  readonly #asked = new Set<number>();
  readonly #imaged = new Set<number>();

  constructor(room: AgentRoom) {
    this.#room = room;
  }

  accepted(step: TestStep, epoch: number): void {
    if (step.verb === 'inspect') return;
    assert.ok(epoch >= this.#highestEpoch, `epoch ${epoch} was accepted after ${this.#highestEpoch}`);
    this.#highestEpoch = epoch;
    const { allocation, domain } = (step.args ?? {}) as { allocation?: string; domain?: string };
    if (allocation !== undefined) {
      if (epoch > this.#lastTenancy && (allocation !== this.#allocation || this.#lastEnd > this.#lastTenancy)) {
        const { disks } = this.#room.rack.machine('n0');
        assert.ok(this.#wipedSinceGuest >= disks.length, `${allocation} got a machine that was not wiped`);
        this.#domains = new Set();
      }
      if (domain !== undefined) this.#domains.add(domain);
      this.#allocation = allocation;
      this.#lastTenancy = Math.max(epoch, this.#lastTenancy);
    }
    if (step.verb === 'reimage') this.#asked.add(epoch);
    if (step.verb === 'drain' || step.verb === 'fence') this.#lastEnd = epoch;
  }

  judge(): void {
    const history = this.#room.rack.history();
    for (const { event, detail } of history.slice(this.#judged)) {
      const epoch = Number(detail.epoch ?? 0);
      if (event === 'guest') this.#guest(detail.ports as { domain: string; state: string }[]);
      if (event === 'wiped') {
        this.#wipedSinceGuest++;
        assert.ok(this.#lastEnd > this.#lastTenancy, 'a disk was wiped under a tenancy that nobody ended');
      }
      if (event === 'imaged') {
        assert.ok(!this.#imaged.has(epoch), `epoch ${epoch} was imaged twice`);
        assert.ok(this.#asked.has(epoch), `nobody asked for an image in epoch ${epoch}`);
        this.#imaged.add(epoch);
      }
    }
    this.#judged = history.length;
    const { record } = this.#room.seen();
    assert.ok(!(record.guestStarted && record.certificate), 'a certificate outlived the start of a guest');
  }

  #guest(ports: readonly { readonly domain: string; readonly state: string }[]): void {
    this.#wipedSinceGuest = 0;
    for (const { domain, state } of ports) {
      // A port whose move failed under a guest is closed by the agent: in quarantine a machine is alone.
      const isolated = domain === 'quarantine' || this.#domains.has(domain);
      assert.ok(isolated && state === 'Ready', `a guest ran with a port ${state} in ${domain}`);
    }
    assert.ok(this.#room.seen().record.guestStarted, 'a guest ran and the log does not say so');
  }
}

async function act(room: AgentRoom, judge: Judge, action: Action): Promise<void> {
  const machine = room.rack.machine('n0');
  switch (action.do) {
    case 'give': {
      const epoch = Math.max(1, room.seen().record.epoch + action.epochOffset);
      if (room.give(action.step, { epoch }).result === 'Accepted') judge.accepted(action.step, epoch);
      break;
    }
    case 'pass':
      await room.clock.advance(action.ms);
      break;
    case 'restart':
      room.restartAgent();
      break;
    case 'reset':
      room.rack.reset(machine);
      break;
    case 'cut':
      room.rack.cutPower(machine);
      break;
    case 'power':
      room.rack.givePower(machine);
      break;
    case 'fail':
      room.rack.failNext('n0', action.what);
      break;
  }
  judge.judge();
}

test('no sequence of instructions and faults runs a guest before its isolation, or wipes what nobody ended', async () => {
  const seen = { guest: 0, wiped: 0, imaged: 0, devirtualized: 0 };
  await fc.assert(
    fc.asyncProperty(fc.nat(prefixes.length - 1), actionsArbitrary, async (prefix, actions) => {
      const room = new AgentRoom({ nodes: ['n0'] });
      const judge = new Judge(room);
      try {
        for (const [step, epoch] of prefixes[prefix] ?? []) {
          judge.accepted(step, epoch);
          assert.equal(await room.run(step, epoch), 'Done');
          judge.judge();
        }
        for (const action of actions) await act(room, judge, action);
        await room.clock.advance(3_600_000);
        judge.judge();
        assert.deepEqual(room.errors, []);
        for (const { event } of room.rack.history()) if (event in seen) seen[event as keyof typeof seen]++;
      } finally {
        room.close();
      }
    }),
    { numRuns: 250 },
  );
  // A property that never comes near what it forbids shows nothing.
  for (const [event, count] of Object.entries(seen)) assert.ok(count > 20, `only ${count} times ${event}`);
});
