/**
 * A machine of the lab whose boots are measured: UEFI firmware, and a TPM that swtpm plays.
 *
 * Invariants:
 * 1. The TPM's identity lies in the machine's directory and outlives its power; its PCRs begin anew with every start of the machine.
 * 2. The swtpm of a start ends with its QEMU; one that hangs on is ended before the next start.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type Clock, sleep } from '../../../controller/runtime/clock.ts';
import { run } from './command.ts';
import type { MachineSpec } from './shape.ts';

/** Files of Debian's package ovmf. */
export const uefiFirmware = { code: '/usr/share/OVMF/OVMF_CODE_4M.fd', variables: '/usr/share/OVMF/OVMF_VARS_4M.fd' };
const farewellMs = 5_000;
const pollMs = 20;

/** Of QEMU, for the start that begins now. @param isUefi else plain firmware, which measures into the TPM as well */
export async function measuredArguments(
  spec: MachineSpec,
  { isUefi, clock }: { readonly isUefi: boolean; readonly clock: Clock },
): Promise<string[]> {
  const socket = await startTpm(spec, clock);
  return [
    ...(isUefi ? uefiArguments(spec) : []),
    ...['-chardev', `socket,id=tpm,path=${socket}`, '-tpmdev', 'emulator,id=tpm0,chardev=tpm'],
    ...['-device', 'tpm-crb,tpmdev=tpm0'],
  ];
}

function uefiArguments({ directory }: MachineSpec): string[] {
  if (!existsSync(uefiFirmware.code)) throw new Error('UEFI firmware is not installed: apt-get install ovmf');
  const variables = join(directory, 'uefi-variables');
  if (!existsSync(variables)) copyFileSync(uefiFirmware.variables, variables);
  return [
    ...['-drive', `if=pflash,format=raw,readonly=on,file=${uefiFirmware.code}`],
    ...['-drive', `if=pflash,format=raw,file=${variables}`],
  ];
}

async function startTpm({ directory, runDirectory }: MachineSpec, clock: Clock): Promise<string> {
  const [state, socket, pidPath] = [join(directory, 'tpm'), join(runDirectory, 'tpm'), join(runDirectory, 'tpm-pid')];
  mkdirSync(state, { recursive: true, mode: 0o700 });
  await endTpm(pidPath, clock);
  rmSync(socket, { force: true });
  await run('swtpm', [
    ...['socket', '--tpm2', '--daemon', '--terminate', '--tpmstate', `dir=${state}`, '--pid', `file=${pidPath}`],
    ...['--ctrl', `type=unixio,path=${socket}`, '--flags', 'startup-clear'],
  ]);
  return socket;
}

async function endTpm(pidPath: string, clock: Clock): Promise<void> {
  const until = clock.monotonic() + farewellMs;
  for (let pid = livePid(pidPath); pid !== undefined; pid = livePid(pidPath)) {
    if (clock.monotonic() > until) process.kill(pid, 'SIGKILL');
    await sleep(clock, pollMs);
  }
}

/** The swtpm of the pid file, and not a process that got its number since. */
function livePid(pidPath: string): number | undefined {
  try {
    const pid = Number(readFileSync(pidPath, 'utf8'));
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(pidPath) ? pid : undefined;
  } catch {
    return undefined;
  }
}
