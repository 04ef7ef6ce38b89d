/**
 * The VMM channel: the bytes that the specification shows, an end that lies, and an agent and a VMM that talk, leave, and lose
 * their last words.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type Duplex, duplexPair } from 'node:stream';
import { test } from 'node:test';
import { VmmChannels } from '../../agent/drivers/vmm-channel/agent-side.ts';
import { decodeBootRecord, encodeBootRecord } from '../../agent/drivers/vmm-channel/boot-record.ts';
import { connectionKeys, encodeFrame, FrameReader } from '../../agent/drivers/vmm-channel/frame.ts';
import { decode, encode, type Message, type Plan, type Status } from '../../agent/drivers/vmm-channel/messages.ts';
import { type VmmMachine, VmmPeer } from '../../agent/drivers/vmm-channel/peer.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import { VirtualClock } from '../support/virtual-clock.ts';

const specification = readFileSync(new URL('../../docs/vmm-channel.md', import.meta.url), 'utf8');
const vector = (name: string): Buffer => {
  const [, hex] = new RegExp(`^${name} +([0-9a-f]+)$`, 'm').exec(specification) ?? [];
  assert.ok(hex, `docs/vmm-channel.md has no vector ${name}`);
  return Buffer.from(hex, 'hex');
};
const bootKey = Buffer.from(Array.from({ length: 32 }, (_, index) => index));
const bootId = Buffer.from('101112131415161718191a1b1c1d1e1f', 'hex');
const vmmNonce = Buffer.alloc(16, 0xa1);
const agentNonce = Buffer.alloc(16, 0xb2);
const token = Buffer.alloc(16, 0xc3);
const gibibytes4 = 4n << 30n;
const plan: Plan = {
  kind: 'Plan',
  epoch: 7n,
  start: 'Fresh',
  yields: 'Fair',
  totalBytes: gibibytes4,
  maxRateBytes: 0n,
  imageDigest: Buffer.alloc(32, 0xd4),
  diskSerial: 'r00n01-sda',
  source: { transport: 'Nbd', address: '10.77.0.1:10809', name: 'e-17' },
  writes: [{ offset: 32768n, bytes: Buffer.from('seed') }],
};
const installed: Status = {
  kind: 'Status',
  epoch: 7n,
  guest: 'Running',
  map: 'Valid',
  flushed: true,
  starts: 1,
  totalBytes: gibibytes4,
  localBytes: gibibytes4,
  inFlight: 0,
  fetchedBytes: gibibytes4 - 4096n,
};

test('the bytes are those of the specification', () => {
  const keys = connectionKeys(bootKey, vmmNonce, agentNonce);
  assert.deepEqual(keys.toAgent, vector('key to agent'));
  assert.deepEqual(keys.toVmm, vector('key to vmm'));
  const none = Buffer.alloc(16);
  const messages: [string, Buffer, bigint, Message][] = [
    ['HELLO', bootKey, 0n, { kind: 'Hello', version: 1, bootId, nonce: vmmNonce, epoch: 7n, preparedToken: none }],
    ['WELCOME', bootKey, 0n, { kind: 'Welcome', version: 1, nonce: agentNonce }],
    ['PLAN', keys.toVmm, 1n, plan],
    ['STATUS', keys.toAgent, 1n, installed],
    ['PREPARE', keys.toVmm, 2n, { kind: 'Prepare', token }],
    ['PREPARED', keys.toAgent, 2n, { kind: 'Prepared', token }],
    ['COMMIT', keys.toVmm, 3n, { kind: 'Commit', token }],
    ['LEAVING', keys.toAgent, 3n, { kind: 'Leaving', token }],
  ];
  for (const [name, key, sequence, message] of messages) {
    assert.deepEqual(encodeFrame(key, sequence, encode(message)), vector(name), name);
    assert.deepEqual(decode(encode(message)), message, name);
  }
});

test('the boot record is that of the specification, and nothing else is one', () => {
  const record = { epoch: 7n, bootId, key: bootKey, address: '10.77.0.1', port: 4560, tls: false };
  assert.deepEqual(encodeBootRecord(record), vector('boot record'));
  assert.deepEqual(decodeBootRecord(vector('boot record')), record);
  for (const address of ['fd77::1', '::', '1:2:3:4:5:6:7:8', 'fe80::aa:bb:cc']) {
    assert.equal(decodeBootRecord(encodeBootRecord({ ...record, address, tls: true })).address, address);
  }
  for (const address of ['', '300.1.1.1', 'fe80::1%eth0', '::ffff:1.2.3.4', 'agent.example']) {
    assert.throws(() => encodeBootRecord({ ...record, address }), /no address/, address);
  }
  for (const at of [0, 83, 100]) {
    const wrong = vector('boot record');
    wrong.writeUInt8(0xff, at);
    assert.throws(() => decodeBootRecord(wrong), /boot record/);
  }
  assert.throws(() => decodeBootRecord(vector('boot record').subarray(1)), /no boot record/);
});

test('a stream that is not right gives nothing from there on', () => {
  const good = encodeFrame(bootKey, 0n, encode(installed));
  const changed = (at: number, ...bytes: number[]): Buffer => {
    const frame = Buffer.from(good);
    frame.set(bytes, at);
    return frame;
  };
  const wrong: [string, Buffer, RegExp][] = [
    ['a changed body', changed(20, 9), /MAC/],
    ['a changed type', changed(4, 9), /MAC/],
    ['another key', encodeFrame(Buffer.alloc(32), 0n, encode(installed)), /MAC/],
    ['a later number', encodeFrame(bootKey, 1n, encode(installed)), /frame 1 came instead of 0/],
    ['a length beyond bounds', changed(0, 1, 0, 1, 0), /65537 bytes/],
  ];
  for (const [what, frame, reason] of wrong) {
    const reader = new FrameReader(bootKey);
    reader.push(frame);
    assert.throws(() => reader.next(), reason, what);
    reader.push(good);
    assert.equal(reader.next(), undefined, what);
  }
  const bytewise = new FrameReader(bootKey);
  for (const [index, byte] of good.entries()) {
    assert.equal(bytewise.next(), undefined, `after ${index} bytes`);
    bytewise.push(Buffer.from([byte]));
  }
  assert.deepEqual(bytewise.next(), encode(installed));
  bytewise.push(good);
  assert.throws(() => bytewise.next(), /frame 0 came instead of 1/, 'repeated');
});

test('messages from the other end are refused whole, or understood', () => {
  for (const message of [plan, installed]) {
    const { type, body } = encode(message);
    for (let length = 0; length < body.length; length += 1) {
      assert.throws(() => decode({ type, body: body.subarray(0, length) }), Error, `${message.kind} cut to ${length}`);
    }
    assert.deepEqual(decode({ type, body: Buffer.concat([body, Buffer.from('later')]) }), message, 'a later version');
  }
  assert.equal(decode({ type: 999, body: Buffer.alloc(3) }), undefined);
  const impossible = encode({ ...installed, localBytes: gibibytes4 + 1n });
  assert.throws(() => decode(impossible), /more is local/);
  const text = encode({ kind: 'Notify', text: 'xx' });
  text.body.writeUInt8(0xff, 4);
  assert.throws(() => decode(text), Error, 'no UTF-8');
  const many = encode(plan);
  many.body.writeUInt8(255, 11);
  assert.throws(() => decode(many), /255 writes/);
});

/** Turns of the event loop until it holds: streams in memory need some for each message. */
async function until(holds: () => boolean, what: string): Promise<void> {
  for (let turn = 0; turn < 1_000; turn += 1) {
    if (holds()) return;
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.fail(`never: ${what}`);
}

class Machine implements VmmMachine {
  now: Omit<Status, 'kind'> = { ...installed };
  readonly seen: string[] = [];
  unready: string | undefined;
  status(): Omit<Status, 'kind'> {
    return this.now;
  }
  async start({ source }: Plan): Promise<void> {
    this.seen.push(`start ${source.name}`);
  }
  throttle(maxRateBytes: bigint): void {
    this.seen.push(`throttle ${maxRateBytes}`);
  }
  notify(text: string): void {
    this.seen.push(`notify ${text}`);
  }
  async prepare(): Promise<string | undefined> {
    return this.unready;
  }
  isPrepared(): boolean {
    return this.unready === undefined;
  }
  leave(): void {
    this.seen.push('left');
  }
}

function pair() {
  const clock = new VirtualClock();
  const channels = new VmmChannels({ clock, random: seededRandom(1), onChange: () => {} });
  const machine = new Machine();
  /** The agent's ends of the connections, oldest first. */
  const links: Duplex[] = [];
  const settings = { swallow: false };
  const connect = (): Duplex => {
    const [vmmEnd, agentEnd] = duplexPair();
    // As TCP does: what one end wrote before it closed arrives first.
    vmmEnd.once('close', () => setImmediate(() => agentEnd.destroy()));
    agentEnd.once('close', () => setImmediate(() => vmmEnd.destroy()));
    links.push(agentEnd);
    if (!settings.swallow) channels.accept(agentEnd);
    return vmmEnd;
  };
  const start = (): VmmPeer =>
    new VmmPeer({ boot: channels.expect('n0', plan), epoch: 7n, machine, connect, clock, random: seededRandom(2) });
  return { clock, channels, machine, links, settings, connect, start };
}

test('a VMM gets its plan, reports, obeys, prepares and leaves', async () => {
  const { channels, machine, start } = pair();
  start();
  await until(() => channels.read('n0').status !== undefined, 'a status');
  assert.equal(channels.read('n0').status?.localBytes, gibibytes4);
  channels.throttle('n0', 1000);
  channels.notify('n0', 'ends at six');
  await until(() => machine.seen.length === 3, 'the plan and two messages');
  assert.deepEqual(machine.seen, ['start e-17', 'throttle 1000', 'notify ends at six']);
  assert.throws(() => channels.commit('n0'), /not prepared/);
  machine.unready = 'a write is under way';
  await assert.rejects(channels.prepare('n0'), /a write is under way/);
  machine.unready = undefined;
  await channels.prepare('n0');
  channels.commit('n0');
  await until(() => machine.seen.includes('left') && !channels.read('n0').connected, 'it left');
});

test('the last acknowledgement is lost: the VMM left once, and the agent does not take silence for an answer', async () => {
  const { clock, channels, machine, links, start } = pair();
  start();
  await until(() => channels.read('n0').connected, 'a connection');
  await channels.prepare('n0');
  // From here on nothing of the VMM arrives.
  links[0]?.removeAllListeners('data');
  channels.commit('n0');
  await until(() => machine.seen.includes('left'), 'it left');
  await clock.advance(60_000);
  assert.equal(channels.read('n0').leaving, false);
  assert.equal(machine.seen.filter((what) => what === 'left').length, 1);
  assert.equal(links.length, 1, 'what left connects no more');
});

test('a plan that must not go out does not, and the VMM asks again', async () => {
  const { clock, channels: _unused, machine, links } = pair();
  let may = false;
  const channels = new VmmChannels({ clock, random: seededRandom(1), onChange: () => {}, mayPlan: () => may });
  const connect = (): Duplex => {
    const [vmmEnd, agentEnd] = duplexPair();
    vmmEnd.once('close', () => setImmediate(() => agentEnd.destroy()));
    agentEnd.once('close', () => setImmediate(() => vmmEnd.destroy()));
    links.push(agentEnd);
    channels.accept(agentEnd, 'n0');
    return vmmEnd;
  };
  const boot = channels.expect('n0', plan);
  new VmmPeer({ boot, epoch: 7n, machine, connect, clock, random: seededRandom(2) });
  await until(() => links[0]?.destroyed === true, 'the connection ends');
  assert.deepEqual(machine.seen, []);
  may = true;
  await clock.advance(1_000);
  await until(() => machine.seen.length === 1, 'the plan');
});

test('a boot is taken from the control port of its own node alone, and known again by an agent that starts anew', async () => {
  const { clock, channels, machine } = pair();
  const boot = channels.expect('n0', plan);
  const foreign = duplexPair();
  channels.accept(foreign[1], 'n1');
  const peer = (end: Duplex): VmmPeer =>
    new VmmPeer({ boot, epoch: 7n, machine, connect: () => end, clock, random: seededRandom(2) });
  const stranger = peer(foreign[0]);
  await until(() => foreign[1].destroyed, 'refused');
  stranger.stop();
  const later = new VmmChannels({ clock, random: seededRandom(3), onChange: () => {} });
  later.expect('n0', plan, boot);
  const own = duplexPair();
  later.accept(own[1], 'n0');
  peer(own[0]);
  await until(() => later.read('n0').connected, 'known again');
});

test('a port that connects and says nothing keeps no other out', async () => {
  const { clock, channels, machine } = pair();
  const mute = Array.from({ length: 80 }, () => duplexPair());
  for (const [, end] of mute) channels.accept(end, 'n9');
  const boot = channels.expect('n0', plan);
  const own = duplexPair();
  channels.accept(own[1], 'n0');
  const peer = new VmmPeer({ boot, epoch: 7n, machine, connect: () => own[0], clock, random: seededRandom(2) });
  await until(() => channels.read('n0').connected, 'let in');
  assert.ok(mute.filter(([, end]) => !end.destroyed).length <= 4);
  await clock.advance(60_000);
  const later = duplexPair();
  channels.accept(later[1], 'n9');
  assert.equal(later[1].destroyed, false, 'those of before no longer count');
  peer.stop();
});

test('a commit that got lost is sent again to the same boot, and nothing else is', async () => {
  const { clock, channels, machine, links, settings, start } = pair();
  start();
  await until(() => channels.read('n0').connected, 'a connection');
  await channels.prepare('n0');
  settings.swallow = true;
  links[0]?.destroy();
  await until(() => !channels.read('n0').connected, 'the connection broke');
  channels.commit('n0');
  await assert.rejects(channels.prepare('n0'), Error);
  settings.swallow = false;
  await clock.advance(30_000);
  await until(() => machine.seen.includes('left'), 'it left');
  assert.deepEqual(machine.seen, ['start e-17', 'left']);
});

test('a machine that is not as it was prepared any more stays, and the token is void', async () => {
  const { channels, machine, start } = pair();
  start();
  await until(() => channels.read('n0').connected, 'a connection');
  await channels.prepare('n0');
  machine.unready = 'the guest was reset';
  channels.commit('n0');
  await until(() => {
    try {
      channels.commit('n0');
      return false;
    } catch {
      return true;
    }
  }, 'the agent hears of it');
  machine.unready = undefined;
  assert.equal(machine.seen.includes('left'), false);
  await channels.prepare('n0');
  channels.commit('n0');
  await until(() => machine.seen.includes('left'), 'it left');
});

test('a stranger, a recording and an earlier boot get nowhere', async () => {
  const { clock, channels, machine, links, connect, start } = pair();
  const peer = start();
  await until(() => channels.read('n0').connected, 'a connection');
  const recorded: Buffer[] = [];
  const stranger = connect();
  stranger.write(vector('HELLO'));
  await until(() => stranger.destroyed || links[1]?.destroyed === true, 'a boot that nobody knows');

  const { bootId: id } = channels.expect('n1', plan);
  const liar = connect();
  liar.on('data', (chunk: Buffer) => recorded.push(chunk));
  liar.write(
    encodeFrame(Buffer.alloc(32), 0n, { type: 1, body: Buffer.concat([Buffer.from([1, 0]), id, Buffer.alloc(40)]) }),
  );
  await until(() => links[2]?.destroyed === true, 'a key that is not the boot’s');
  assert.equal(recorded.length, 0);

  const silent = connect();
  await clock.advance(11_000);
  await until(() => links[3]?.destroyed === true, 'one who says nothing');
  silent.destroy();
  assert.equal(channels.read('n0').connected, true);
  channels.forget('n0');
  peer.stop();
  assert.equal(channels.read('n0').connected, false);
  assert.deepEqual(machine.seen, ['start e-17']);
});

test('a VMM that sends without a pause is read at a pace, and its newest word arrives', async () => {
  const clock = new VirtualClock();
  let changes = 0;
  const channels = new VmmChannels({ clock, random: seededRandom(9), onChange: () => void changes++ });
  const key = channels.expect('n0', plan);
  const [vmmEnd, agentEnd] = duplexPair();
  channels.accept(agentEnd);
  const hello: Message = {
    ...{ kind: 'Hello', version: 1, nonce: vmmNonce, epoch: plan.epoch, preparedToken: Buffer.alloc(16) },
    bootId: key.bootId,
  };
  vmmEnd.write(encodeFrame(key.key, 0n, encode(hello)));
  const reader = new FrameReader(key.key);
  const [welcome] = (await once(vmmEnd, 'data')) as [Buffer];
  reader.push(welcome);
  const frame = reader.next();
  const answer = frame === undefined ? undefined : decode(frame);
  assert.ok(answer?.kind === 'Welcome');
  const { toAgent } = connectionKeys(key.key, vmmNonce, answer.nonce);
  vmmEnd.resume();
  const count = 5_000;
  let written = 0;
  const flood = (): void => {
    while (written < count) {
      written++;
      const said = encodeFrame(toAgent, BigInt(written), encode({ ...installed, starts: written }));
      if (!vmmEnd.write(said)) return void vmmEnd.once('drain', flood);
    }
  };
  flood();
  await settled();
  assert.ok(changes > 0 && changes < 2_000, `${changes} words in the first second`);
  const first = changes;
  await clock.advance(1_000);
  await settled();
  assert.ok(changes > first && changes < 2 * 2_000, `${changes} words in two seconds`);
  await clock.advance(14_000);
  assert.equal(channels.read('n0').status?.starts, count);
  assert.equal(channels.read('n0').connected, true);
  channels.forget('n0');
});

/** Streams hand on what they hold in ticks of their own. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 500; turn++) await new Promise((resolve) => setImmediate(resolve));
}
