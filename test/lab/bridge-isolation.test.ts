/** The bridge fabric on the kernel's own bridges: what guests with root reach, whatever they send. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Egress } from '../../agent/drivers/port.ts';
import { counterpart } from '../support/counterpart.ts';
import { FabricRoom, ipOf, mac, machineIp, macOf, type Name, ownServerIp } from './support/fabric-room.ts';
import {
  arp,
  broadcast,
  dhcp,
  frame,
  macHex,
  routerAdvertisement,
  syn,
  synAnswer,
  textHex,
  udp,
} from './support/packets.ts';
import { roomIsPossible, roomRemedy } from './support/switch-room.ts';

describe(
  'isolation by the bridge fabric',
  counterpart('a kernel that lets tests make networks', roomIsPossible(), roomRemedy),
  () => {
    let hall: FabricRoom;
    before(async () => {
      hall = await FabricRoom.open('isolation');
    });
    after(() => hall.close());
    beforeEach(async () => {
      await hall.twoTenants();
      hall.faults.length = 0;
    });

    test('a domain reaches itself and nobody else, by any frame', async () => {
      const all: Name[] = ['a2', 'b1', 'b2', 'c1', 'c2', 'gw'];
      const kinds: Record<string, (part: string) => string[]> = {
        'to one': (part) => [...all, 'a1' as const].map((name) => frame(macOf('a1'), macOf(name as Name), part)),
        'to all': (part) => [frame(macOf('a1'), broadcast, part)],
        'to a group': (part) => [
          frame(macOf('a1'), '01:00:5e:00:00:01', part),
          frame(macOf('a1'), '33:33:00:00:00:01', part),
        ],
        'to an unknown address': (part) => [frame(macOf('a1'), mac(0x77), part)],
        'with a VLAN tag': (part) => [
          frame(macOf('a1'), broadcast, `..${part}`, '8100'),
          frame(macOf('a1'), broadcast, part, '88a8'),
        ],
        'of AoE': (part) => [frame(macOf('a1'), broadcast, part, '88a2')],
      };
      for (const [kind, frames] of Object.entries(kinds)) {
        assert.deepEqual(await hall.whoGets('a1', frames, all), ['a2'], kind);
      }
    });

    test('reads back where each port is, with the egress', async () => {
      await hall.put('a1', 'allocation/a', 'Internet');
      assert.deepEqual(hall.fabric.read('a1').ports, [
        {
          name: 'port0',
          role: 'Data',
          kind: 'Ethernet',
          address: macOf('a1'),
          state: 'Ready',
          domain: 'allocation/a',
          egress: 'Internet',
        },
      ]);
      assert.equal(hall.domainOf('b1'), 'group/team/b');
      assert.deepEqual(hall.fabric.read('c1').ports[0]?.domain, 'provisioning');
    });

    test("another's source address gets nothing through and draws nothing", async () => {
      await hall.room.guest('a1').send(frame(macOf('a1'), macOf('a2'), hall.text()));
      assert.deepEqual(hall.room.whereIs(macOf('a1')), ['da1']);
      const spoofed = (part: string): string[] => [
        frame(macOf('a1'), macOf('a2'), part),
        frame(macOf('a1'), broadcast, part),
        // Frames to link-local groups pass the bridge by another way.
        ...['00', '01', '02', '03', '0e'].map((last) => frame(macOf('a1'), `01:80:c2:00:00:${last}`, part, '88cc')),
      ];
      assert.deepEqual(await hall.whoGets('b1', spoofed, ['a1', 'a2', 'b2', 'gw']), []);
      assert.deepEqual(hall.room.whereIs(macOf('a1')), ['da1']);
      const reply = hall.text();
      await hall.room.guest('a2').send(frame(macOf('a2'), macOf('a1'), reply));
      assert.ok(await hall.hears('a1', textHex(reply), 2000));
      assert.equal(await hall.hears('b1', textHex(reply)), false);
    });

    test('a spoofed address is not learned when its owner is silent either', async () => {
      const silent = mac(0x55);
      await hall.room
        .guest('b1')
        .send(frame(silent, macOf('b2'), hall.text()), frame(silent, '01:80:c2:00:00:0e', hall.text(), '88cc'));
      assert.deepEqual(await hall.whoGets('b1', (part) => [frame(macOf('b1'), broadcast, part)], ['b2']), ['b2']);
      assert.deepEqual(hall.room.whereIs(silent), []);
    });

    test('a guest answers no DHCP and advertises no router, in its own domain neither', async () => {
      const forged = (part: string): string[] => [
        udp({
          from: macOf('a1'),
          to: broadcast,
          fromIp: ipOf('a1'),
          toIp: '255.255.255.255',
          fromPort: 67,
          toPort: 68,
          payload: dhcp(2, macOf('a2'), part),
        }),
        routerAdvertisement(macOf('a1'), part),
      ];
      assert.deepEqual(await hall.whoGets('a1', forged, ['a2', 'b1', 'gw']), []);
      const honest = (part: string): string[] => [
        udp({
          from: macOf('a1'),
          to: macOf('a2'),
          fromIp: ipOf('a1'),
          toIp: ipOf('a2'),
          fromPort: 69,
          toPort: 68,
          payload: textHex(part),
        }),
      ];
      assert.deepEqual(await hall.whoGets('a1', honest, ['a2']), ['a2']);
    });

    test('a DHCP request comes from its own port and its answer goes to that port alone', async () => {
      const ask = (from: Name, client: Name, part: string): string =>
        udp({
          from: macOf(from),
          to: broadcast,
          fromIp: '0.0.0.0',
          toIp: '255.255.255.255',
          fromPort: 68,
          toPort: 67,
          payload: dhcp(1, macOf(client), part),
        });
      const server = `import socket,sys
s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons(3)); s.bind(('data',0)); s.settimeout(1)
import time
end=time.monotonic()+float(sys.argv[2]); got=False
print('ready',flush=True)
while time.monotonic()<end and not got:
  try: got=sys.argv[1].encode() in s.recv(65535)
  except TimeoutError: pass
print(got)`;
      const heardByMachine = async (frames: string[], part: string, seconds: number): Promise<boolean> => {
        const child = spawn('ip', [
          'netns',
          'exec',
          hall.room.netns,
          '/usr/bin/python3',
          '-c',
          server,
          part,
          String(seconds),
        ]);
        let printed = '';
        await new Promise<void>((resolve) => {
          child.stdout.on('data', (data) => {
            printed += data;
            if (printed.includes('ready')) resolve();
          });
        });
        await hall.room.guest('a1').send(...frames);
        await new Promise((resolve) => child.once('close', resolve));
        return printed.includes('True');
      };
      const own = hall.text();
      assert.ok(await heardByMachine([ask('a1', 'a1', own)], own, 5));
      const others = hall.text();
      assert.equal(await heardByMachine([ask('a1', 'b1', others)], others, 1), false);
      const offer = hall.text();
      const answer = udp({
        from: mac(0x01),
        to: broadcast,
        fromIp: '10.78.0.1',
        toIp: '255.255.255.255',
        fromPort: 67,
        toPort: 68,
        payload: dhcp(2, macOf('a1'), offer),
      });
      const send = `import socket,sys
s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW); s.bind(('data',0)); s.send(bytes.fromhex(sys.argv[1]))`;
      hall.room.run('/usr/bin/python3', '-c', send, answer);
      assert.ok(await hall.hears('a1', textHex(offer), 2000));
      for (const other of ['a2', 'b1', 'b2'] as const)
        assert.equal(await hall.hears(other, textHex(offer)), false, other);
    });

    test('a port in provisioning reaches the boot server under its own address alone, and no other node', async () => {
      const machineMac = hall.bridgeMac('ctl');
      const reaches = async (toPort: number, change: Partial<Parameters<typeof syn>[0]> = {}): Promise<boolean> => {
        await hall.room.guest('c1').seen();
        await hall.room
          .guest('c1')
          .send(syn({ from: macOf('c1'), to: machineMac, fromIp: ipOf('c1'), toIp: machineIp, toPort, ...change }));
        return hall.hears('c1', synAnswer(toPort), 300);
      };
      assert.ok(await reaches(8080));
      assert.equal(await reaches(22), false);
      assert.equal(
        await reaches(8080, { toIp: '10.78.0.1' }),
        false,
        'an address of the machine that is no boot server',
      );
      assert.equal(await reaches(8080, { from: macOf('c2') }), false);
      await hall.room.guest('c2').seen();
      assert.equal(await reaches(8080, { fromIp: ipOf('c2') }), false);
      assert.equal(await hall.hears('c2', synAnswer(8080)), false);
      assert.deepEqual(
        await hall.whoGets(
          'c1',
          (part) => [frame(macOf('c1'), broadcast, part), frame(macOf('c1'), macOf('c2'), part)],
          ['c2', 'a1'],
        ),
        [],
      );
      const claimed = arp({ senderMac: macOf('c1'), senderIp: ipOf('c2'), targetIp: machineIp });
      await hall.room.guest('c1').send(claimed);
      await hall.room.guest('c1').send(arp({ senderMac: macOf('c1'), senderIp: ipOf('c1'), targetIp: machineIp }));
      assert.ok(await hall.hears('c1', `0002${macHex(machineMac)}`, 2000), 'an honest question is answered');
      const known = JSON.parse(hall.room.run('ip', '-json', 'neigh', 'show', 'dev', 'ctl')) as {
        dst: string;
        lladdr?: string;
      }[];
      assert.notEqual(known.find(({ dst }) => dst === ipOf('c2'))?.lladdr, macOf('c1'));
    });

    test('a port that has an address of the boot server of its own reaches no other, and so that address proves the port', async () => {
      const machineMac = hall.bridgeMac('ctl');
      for (const [toIp, expected] of [
        [ownServerIp, true],
        [machineIp, false],
      ] as const) {
        await hall.room.guest('c2').seen();
        await hall.room
          .guest('c2')
          .send(syn({ from: macOf('c2'), to: machineMac, fromIp: ipOf('c2'), toIp, toPort: 8080 }));
        assert.equal(await hall.hears('c2', synAnswer(8080), expected ? 2000 : 300), expected, toIp);
      }
    });

    test('tenants reach neither the machine nor the control ports', async () => {
      const machineMac = hall.bridgeMac('data');
      for (const toIp of ['10.78.0.1', machineIp]) {
        await hall.room
          .guest('a1')
          .send(syn({ from: macOf('a1'), to: machineMac, fromIp: ipOf('a1'), toIp, toPort: 8080 }));
        assert.equal(await hall.hears('a1', synAnswer(8080)), false, toIp);
      }
    });

    test('egress opens the gateway, to what it names', async () => {
      const to = (toIp: string, part: string): string =>
        udp({
          from: macOf('a1'),
          to: macOf('gw'),
          fromIp: ipOf('a1'),
          toIp,
          fromPort: 999,
          toPort: 999,
          payload: textHex(part),
        });
      const reached = async (toIp: string): Promise<boolean> =>
        (await hall.whoGets('a1', (part) => [to(toIp, part)], ['gw'])).length === 1;
      const places = ['10.78.0.254', '10.90.1.1', '192.0.2.1', machineIp];
      const openings: [Egress, boolean[]][] = [
        ['None', [false, false, false, false]],
        ['Shared', [true, true, false, false]],
        ['Internet', [true, true, true, false]],
      ];
      for (const [egress, expected] of openings) {
        assert.equal((await hall.put('a1', 'allocation/a', egress)).status, 'Done');
        const seen: boolean[] = [];
        for (const place of places) seen.push(await reached(place));
        assert.deepEqual(seen, expected, egress);
      }
      assert.equal((await hall.whoGets('a2', (part) => [frame(macOf('a2'), macOf('gw'), part)], ['gw'])).length, 0);
    });

    test("the gateway believes nobody who claims another's address, and sends a port only its own", async () => {
      await hall.put('a1', 'allocation/a', 'Internet');
      await hall.put('b1', 'group/team/b', 'Internet');
      await hall.room.guest('gw').seen();
      const claims = [
        arp({ senderMac: macOf('b1'), senderIp: ipOf('a1'), targetIp: ipOf('gw'), reply: true, to: macOf('gw') }),
        arp({ senderMac: macOf('b1'), senderIp: ipOf('a1'), targetIp: ipOf('a1') }),
        arp({ senderMac: macOf('a1'), senderIp: ipOf('a1'), targetIp: ipOf('gw'), from: macOf('b1') }),
      ];
      await hall.room.guest('b1').send(...claims);
      await hall.room.guest('b1').send(arp({ senderMac: macOf('b1'), senderIp: ipOf('b1'), targetIp: ipOf('gw') }));
      assert.ok(await hall.room.guest('b1').gets(`0002${macHex(macOf('gw'))}`));
      const { seen } = { seen: await hall.room.guest('gw').seen() };
      assert.equal(
        seen.some((text) => text.includes(`${macHex(macOf('b1'))}0a4e000b`)),
        false,
        'a claim came through',
      );
      const part = hall.text();
      const toA1 = udp({
        from: macOf('gw'),
        to: broadcast,
        fromIp: '192.0.2.1',
        toIp: ipOf('a1'),
        fromPort: 9,
        toPort: 9,
        payload: textHex(part),
      });
      await hall.room.guest('gw').send(toA1);
      assert.ok(await hall.hears('a1', textHex(part), 2000));
      assert.equal(await hall.hears('b1', textHex(part)), false);
      const fromSpoofed = (spoof: string): string[] => [
        udp({
          from: macOf('b1'),
          to: macOf('gw'),
          fromIp: ipOf('a1'),
          toIp: '192.0.2.1',
          fromPort: 9,
          toPort: 9,
          payload: textHex(spoof),
        }),
      ];
      assert.deepEqual(await hall.whoGets('b1', fromSpoofed, ['gw']), []);
    });

    test('quarantine reaches nobody, its old domain included', async () => {
      assert.equal((await hall.put('a1', 'quarantine')).status, 'Done');
      assert.deepEqual(
        await hall.whoGets('a1', (part) => [frame(macOf('a1'), broadcast, part)], ['a2', 'b1', 'gw']),
        [],
      );
      assert.deepEqual(await hall.whoGets('a2', (part) => [frame(macOf('a2'), macOf('a1'), part)], ['a1', 'b1']), []);
      await hall.put('b1', 'quarantine');
      assert.deepEqual(
        await hall.whoGets('a1', (part) => [frame(macOf('a1'), macOf('b1'), part)], ['b1']),
        [],
        'two in quarantine',
      );
    });

    test('while ports move under a flood nothing comes out of a domain', async () => {
      const part = textHex('flood!');
      await hall.room.guest('a1').flood(frame(macOf('a1'), broadcast, 'flood!').slice(0, 40), 100);
      const read: string[] = [];
      for (let round = 0; round < 8; round++) {
        await hall.put('a2', round % 2 === 0 ? 'group/team/b' : 'allocation/a');
        await hall.put('b2', round % 2 === 0 ? 'allocation/fresh' : 'group/team/b');
        read.push(hall.domainOf('a2'));
        assert.equal(
          (await hall.room.guest('b1').seen()).some((seen) => seen.includes(part)),
          false,
          `round ${round}`,
        );
        if (round % 2 === 0) {
          await hall.room.guest('a2').seen();
          assert.equal(await hall.hears('a2', part), false, 'read back in another domain, and hears its old one');
          assert.equal(
            (await hall.room.guest('b2').seen()).some((seen) => seen.includes(part)),
            false,
          );
        } else {
          assert.ok(await hall.hears('a2', part, 2000));
        }
      }
      await hall.room.guest('a1').flood(null);
      assert.deepEqual(new Set(read), new Set(['group/team/b', 'allocation/a']));
    });
  },
);
