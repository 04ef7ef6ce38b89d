/**
 * Loaded into every process that the benchmark measures (`node --import`): answers its parent's question with what the process
 * has used so far, by the operating system's own account.
 */
import process from 'node:process';

/** What a process has used since it started. */
export interface Usage {
  readonly type: 'usage';
  readonly userSeconds: number;
  readonly systemSeconds: number;
  /** The most memory that was resident at once. */
  readonly peakBytes: number;
}

process.on('message', (message: unknown) => {
  if (message !== 'usage') return;
  const { userCPUTime, systemCPUTime, maxRSS } = process.resourceUsage();
  const usage: Usage = {
    type: 'usage',
    userSeconds: userCPUTime / 1e6,
    systemSeconds: systemCPUTime / 1e6,
    peakBytes: maxRSS * 1024,
  };
  process.send?.(usage);
});
