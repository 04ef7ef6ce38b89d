/**
 * A software TPM (swtpm) with an endorsement certificate of a manufacturer of its own.
 *
 * Invariant: its processes and files are gone when the test is over.
 */
import { execFileSync, spawn } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import type { Carrier } from '../../agent/attestation/tpm.ts';

export interface Manufacturer {
  readonly roots: readonly X509Certificate[];
  readonly intermediates: readonly X509Certificate[];
}

/** Makes the state of a TPM, with its endorsement key certified, in `directory`. */
export function manufacture(directory: string): Manufacturer {
  const ca = join(directory, 'ca');
  for (const path of [ca, join(directory, 'state')]) mkdirSync(path, { recursive: true });
  const caConfig = join(directory, 'localca.conf');
  writeFileSync(
    caConfig,
    `statedir = ${ca}\nsigningkey = ${ca}/signkey.pem\nissuercert = ${ca}/issuercert.pem\ncertserial = ${ca}/certserial\n`,
  );
  const options = join(directory, 'localca.options');
  writeFileSync(options, '--platform-manufacturer Lab\n--platform-version 1\n--platform-model Lab\n');
  const config = join(directory, 'setup.conf');
  writeFileSync(
    config,
    `create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = ${caConfig}\ncreate_certs_tool_options = ${options}\n`,
  );
  execFileSync(
    'swtpm_setup',
    [
      ...['--tpm2', '--tpmstate', join(directory, 'state'), '--config', config, '--create-ek-cert', '--overwrite'],
      ...['--pcr-banks', 'sha256', '--logfile', join(directory, 'setup.log')],
    ],
    { stdio: 'pipe' },
  );
  const certificate = (name: string): X509Certificate => new X509Certificate(readFileSync(join(ca, name)));
  return { roots: [certificate('swtpm-localca-rootca-cert.pem')], intermediates: [certificate('issuercert.pem')] };
}

async function start(t: TestContext, directory: string, args: readonly string[], socket: string): Promise<void> {
  const child = spawn('swtpm', ['socket', '--tpm2', '--tpmstate', `dir=${join(directory, 'state')}`, ...args], {
    stdio: 'ignore',
  });
  t.after(async () => {
    const ended = child.exitCode !== null || child.signalCode !== null ? undefined : once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  });
  for (let tries = 0; !existsSync(socket); tries += 1) {
    if (tries === 200 || child.exitCode !== null) throw new Error('swtpm does not start');
    await pause(50);
  }
}

/** Without a machine: commands go straight to it. */
export async function directTpm(t: TestContext, directory: string): Promise<Carrier> {
  const path = join(directory, 'commands');
  const control = join(directory, 'control');
  await start(
    t,
    directory,
    ['--server', `type=unixio,path=${path}`, '--ctrl', `type=unixio,path=${control}`, '--flags', 'startup-clear'],
    path,
  );
  const socket = await connected(path);
  t.after(() => socket.destroy());
  return async (command) => {
    socket.write(command);
    let response = Buffer.alloc(0);
    while (response.length < 10 || response.length < response.readUInt32BE(2)) {
      const [chunk] = (await once(socket, 'data')) as [Buffer];
      response = Buffer.concat([response, chunk]);
    }
    return response;
  };
}

/** As a machine's reset does, with or without a loss of power: the TPM starts anew, and what was measured is gone. */
export async function resetTpm(directory: string, carry: Carrier): Promise<void> {
  // CMD_INIT of swtpm's control channel, without flags; it answers with a result of four bytes.
  const control = await connected(join(directory, 'control'));
  control.write(Buffer.from('0000000200000000', 'hex'));
  const [result] = (await once(control, 'data')) as [Buffer];
  control.destroy();
  if (result.readUInt32BE(0) !== 0) throw new Error('swtpm does not start anew');
  const started = await carry(Buffer.from('80010000000c000001440000', 'hex'));
  if (started.readUInt32BE(6) !== 0) throw new Error('the TPM does not start');
}

/** A socket has its name before anybody listens at it. */
async function connected(path: string): Promise<Socket> {
  for (let tries = 0; ; tries += 1) {
    const socket = connect(path);
    try {
      await once(socket, 'connect');
      return socket;
    } catch (error) {
      if (tries === 200) throw error;
      await pause(50);
    }
  }
}
