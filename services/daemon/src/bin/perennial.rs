fn main() -> std::process::ExitCode {
    perennial::cli::main()
}
