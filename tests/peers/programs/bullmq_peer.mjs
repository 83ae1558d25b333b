// BullMQ on Redis, or on PostgreSQL (PEERS_BACKEND=postgres): `setup`, `worker`, or
// without a word the scheduler, which speaks as asking.py does.
import { createInterface } from 'node:readline'
import { ProduceAcks, Producer, stringSerializers } from '@platformatic/kafka'
import bullmq from 'bullmq'

const { createPostgresBackend, Queue, Worker } = bullmq
const TOPIC = 'autopilot.phase.transition'
const CHUNK = 1000
const onPostgres = process.env.PEERS_BACKEND === 'postgres'
const backend = onPostgres ? [createPostgresBackend] : []

function connection () {
  if (onPostgres) {
    return { connectionString: process.env.PEERS_DATABASE_URL, migrate: true }
  }
  const url = new URL(process.env.PEERS_REDIS_URL)
  return { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null }
}

async function work () {
  const producer = new Producer({
    clientId: 'bullmq',
    bootstrapBrokers: [process.env.KAFKA_BOOTSTRAP_SERVERS],
    serializers: stringSerializers
  })
  const fire = async job => {
    const { number, dueMs } = job.data
    const at = new Date(dueMs).toISOString()
    const hex = number.toString(16).padStart(32, '0')
    const eventId = hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
    const value = JSON.stringify({
      topic: TOPIC,
      originator: 'auto_pilot',
      timestamp: at,
      mimeType: 'application/json',
      payload: {
        projectId: number,
        phaseId: 1,
        phaseTypeName: 'Review',
        state: 'END',
        operator: 'peers',
        projectStatus: 'ACTIVE',
        date: at
      }
    })
    const headers = new Map([
      ['event-id', eventId],
      ['job-id', `job-${number}`],
      ['correlation-id', eventId],
      ['content-type', 'application/json']
    ])
    await producer.send({
      messages: [{ topic: TOPIC, key: String(number), value, headers }],
      acks: ProduceAcks.ALL
    })
  }
  const concurrency = Number(process.env.PEERS_CONCURRENCY)
  const worker = new Worker('peers', fire, { connection: connection(), concurrency }, ...backend)
  worker.on('error', error => console.error('worker', error))
  worker.on('failed', (_, error) => console.error('job', error))
}

async function schedule () {
  const queue = new Queue('peers', { connection: connection() }, ...backend)
  await queue.waitUntilReady()
  const answer = content => console.log(`peers ${JSON.stringify(content)}`)
  const delay = dueMs => Math.max(0, dueMs - Date.now())
  answer({ ready: true })
  for await (const line of createInterface({ input: process.stdin })) {
    const { first, count, dueMs, spanMs, bulk } = JSON.parse(line)
    const jobs = Array.from({ length: count }, (_, at) => (
      { number: first + at, dueMs: dueMs + Math.floor(spanMs * at / count) }
    ))
    const beganAt = performance.now()
    if (bulk) {
      for (let start = 0; start < count; start += CHUNK) {
        await queue.addBulk(jobs.slice(start, start + CHUNK).map(data => (
          { name: 'publish', data, opts: { delay: delay(data.dueMs) } }
        )))
      }
    } else {
      for (const data of jobs) {
        await queue.add('publish', data, { delay: delay(data.dueMs) })
      }
    }
    answer({ seconds: (performance.now() - beganAt) / 1000 })
  }
  process.exit(0)
}

async function setUp () {
  const queue = new Queue('peers', { connection: connection() }, ...backend)
  await queue.waitUntilReady()
  await queue.close()
  process.exit(0)
}

await ({ setup: setUp, worker: work }[process.argv[2]] ?? schedule)()
